//! Names of one function: registers, variables and labels of nested scopes,
//! made unique.

use std::collections::HashMap;

use super::super::ast::RegId;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Name {
    /// One register.
    Reg(RegId),
    /// A vector register: its first component and how many there are.
    RegVector(RegId, u32),
    /// A variable or parameter under its unique name, and the bytes of an element.
    Variable(String, u32),
    /// A label, branch table, call table or prototype under its unique name.
    Label(String),
}

#[derive(Default)]
struct Scope<'a> {
    parent: Option<usize>,
    names: HashMap<&'a str, Name>,
    /// `%r<5>`: by prefix, first register, how many, and components each.
    ranges: HashMap<&'a str, (RegId, u32, u32)>,
}

/// All scopes of a function, open or closed, and which is current.
#[derive(Default)]
pub(super) struct Scopes<'a> {
    all: Vec<Scope<'a>>,
    current: usize,
    /// How often a name was made unique in this function.
    taken: HashMap<&'a str, u32>,
    /// Whether a label was renamed, so that its uses need a second look.
    pub label_renamed: bool,
}

impl<'a> Scopes<'a> {
    /// Starts a function, with the scope of its parameters.
    pub fn reset(&mut self) {
        self.all.clear();
        self.all.push(Scope::default());
        self.current = 0;
        self.taken.clear();
        self.label_renamed = false;
    }

    pub fn open(&mut self) {
        self.all.push(Scope {
            parent: Some(self.current),
            ..Scope::default()
        });
        self.current = self.all.len() - 1;
    }

    pub fn close(&mut self) {
        self.current = self.all[self.current].parent.unwrap_or(0);
    }

    pub fn current(&self) -> usize {
        self.current
    }

    /// Whether the current scope itself declares the name.
    pub fn declares(&self, name: &str) -> bool {
        let scope = &self.all[self.current];
        scope.names.contains_key(name)
    }

    pub fn declare(&mut self, name: &'a str, what: Name) {
        self.all[self.current].names.insert(name, what);
    }

    /// Declares `prefix<count>`, each of `width` components; false where the prefix is taken.
    pub fn declare_range(&mut self, prefix: &'a str, first: RegId, count: u32, width: u32) -> bool {
        self.all[self.current]
            .ranges
            .insert(prefix, (first, count, width))
            .is_none()
    }

    /// A name no other variable or label of the function has. `outside` tells that
    /// the module has the name too. The suffix starts with a dot, which PTX names cannot hold.
    pub fn unique(&mut self, name: &'a str, outside: bool) -> String {
        let times = self.taken.entry(name).or_insert(0);
        let unique = if *times == 0 && !outside {
            name.to_string()
        } else {
            format!("{name}.{times}")
        };
        *times += 1;
        unique
    }

    /// What the name means in the current scope.
    pub fn lookup(&self, name: &str) -> Option<Name> {
        self.lookup_from(self.current, name)
    }

    /// What the name means in a given scope.
    pub fn lookup_from(&self, scope: usize, name: &str) -> Option<Name> {
        let mut at = self.all.get(scope)?;
        loop {
            if let Some(found) = at.names.get(name) {
                return Some(found.clone());
            }
            if !at.ranges.is_empty()
                && let Some(found) = at.in_range(name)
            {
                return Some(found);
            }
            at = self.all.get(at.parent?)?;
        }
    }
}

impl Scope<'_> {
    /// `%r12` as the member of a declared range. The prefix may itself end in digits,
    /// so every split is tried, shortest prefix first.
    fn in_range(&self, name: &str) -> Option<Name> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        for split in name.len() - digits..name.len() {
            let (prefix, number) = name.split_at(split);
            if number.len() > 1 && number.starts_with('0') {
                continue;
            }
            if let Some(&(first, count, width)) = self.ranges.get(prefix)
                && let Ok(number) = number.parse::<u32>()
                && number < count
            {
                let first = RegId(first.0 + number * width);
                return Some(match width {
                    1 => Name::Reg(first),
                    _ => Name::RegVector(first, width),
                });
            }
        }
        None
    }
}
