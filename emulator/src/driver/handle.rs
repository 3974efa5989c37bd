//! Handles: what the caller holds in place of an object. A handle carries its
//! kind and a serial number and is never a pointer, so a wrong, stale or
//! destroyed one is recognised and nothing is ever read through it.

use super::error::{CuResult, Result, error};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// What handles of a type are called, and what a bad one gives.
pub(crate) trait Kind {
    /// Distinguishes the kinds inside the number.
    const TAG: u8;
    /// For messages.
    const WHAT: &'static str;
    /// What a call with a bad handle returns.
    const MISSING: CuResult = CuResult::INVALID_HANDLE;
}

/// A handle as C passes it: the size of a pointer, null for none.
#[repr(transparent)]
pub(crate) struct Handle<T>(u64, PhantomData<fn() -> T>);

/// Above every canonical user address, so that following one crashes.
const MARK: u64 = 0x00dd_0000_0000_0000;
const TAG_SHIFT: u32 = 40;

impl<T> Handle<T> {
    /// No object.
    pub(crate) const NULL: Handle<T> = Handle(0, PhantomData);

    /// The number C sees.
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// A handle out of a number C gave.
    pub(crate) const fn from_raw(raw: u64) -> Handle<T> {
        Handle(raw, PhantomData)
    }

    pub(crate) const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Whether the number was made for handles of kind `U`.
    pub(crate) fn is_kind<U: Kind>(self) -> bool {
        self.0 >> TAG_SHIFT == (MARK >> TAG_SHIFT) | u64::from(U::TAG)
    }
}

impl<T: Kind> Handle<T> {
    /// A number that no handle had before.
    fn fresh() -> Handle<T> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Handle(
            MARK | (u64::from(T::TAG) << TAG_SHIFT) | (serial << 4),
            PhantomData,
        )
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Handle<T> {}
impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Handle<T> {}
impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Objects of one kind, by handle, in order of creation.
#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: BTreeMap<Handle<T>, T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            entries: BTreeMap::new(),
        }
    }
}

impl<T: Kind> Table<T> {
    pub(crate) fn insert(&mut self, value: T) -> Handle<T> {
        let handle = Handle::fresh();
        self.entries.insert(handle, value);
        handle
    }

    /// Puts an object back under a handle of old.
    pub(crate) fn insert_at(&mut self, handle: Handle<T>, value: T) {
        self.entries.insert(handle, value);
    }

    fn missing(handle: Handle<T>) -> super::error::Error {
        if handle.is_null() {
            return error(T::MISSING, format!("the {} is null", T::WHAT));
        }
        let why = if handle.is_kind::<T>() {
            "was destroyed"
        } else {
            "is not one"
        };
        error(
            T::MISSING,
            format!("{handle:?}, given as {}, {why}", T::WHAT),
        )
    }

    pub(crate) fn get(&self, handle: Handle<T>) -> Result<&T> {
        self.entries
            .get(&handle)
            .ok_or_else(|| Self::missing(handle))
    }

    pub(crate) fn get_mut(&mut self, handle: Handle<T>) -> Result<&mut T> {
        self.entries
            .get_mut(&handle)
            .ok_or_else(|| Self::missing(handle))
    }

    pub(crate) fn remove(&mut self, handle: Handle<T>) -> Result<T> {
        self.entries
            .remove(&handle)
            .ok_or_else(|| Self::missing(handle))
    }

    pub(crate) fn contains(&self, handle: Handle<T>) -> bool {
        self.entries.contains_key(&handle)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle<T>, &T)> {
        self.entries.iter().map(|(h, v)| (*h, v))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle<T>, &mut T)> {
        self.entries.iter_mut().map(|(h, v)| (*h, v))
    }

    /// Keeps the objects for which `keep` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Handle<T>, &mut T) -> bool) {
        self.entries.retain(|h, v| keep(*h, v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Apple;
    impl Kind for Apple {
        const TAG: u8 = 200;
        const WHAT: &'static str = "apple";
    }
    struct Pear;
    impl Kind for Pear {
        const TAG: u8 = 201;
        const WHAT: &'static str = "pear";
        const MISSING: CuResult = CuResult::INVALID_CONTEXT;
    }

    #[test]
    fn a_wrong_or_stale_handle_is_named() {
        let (mut apples, mut pears) = (Table::default(), Table::default());
        let apple = apples.insert(Apple);
        let pear = pears.insert(Pear);
        assert!(apples.get(apple).is_ok());
        let wrong = pears
            .get(Handle::from_raw(apple.raw()))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(wrong.code, CuResult::INVALID_CONTEXT);
        assert!(wrong.message.unwrap().contains("given as pear, is not one"));
        assert!(pears.remove(pear).is_ok());
        let stale = pears.get(pear).map(|_| ()).unwrap_err();
        assert!(stale.message.unwrap().ends_with("was destroyed"));
        assert!(apples.get(Handle::NULL).is_err());
    }
}
