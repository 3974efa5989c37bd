//! What an address is: `cuPointerGetAttribute` and its like.

use super::abi::memory_type;
use super::api::{In, Out, driver_calls};
use super::error::{Result, fail};
use super::memory::MemoryKind;
use super::state::{State, lock};
use crate::memory::Owner;

/// An attribute's value, of the size C expects.
enum Value {
    Bool(bool),
    Word(u32),
    Wide(u64),
}

impl Value {
    fn put(self, out: Out<u8>) -> Result<()> {
        match self {
            Value::Bool(value) => out.put(u8::from(value)),
            Value::Word(value) => out.put_all(value.to_le_bytes()),
            Value::Wide(value) => out.put_all(value.to_le_bytes()),
        }
    }
}

fn zero(attribute: u32) -> Value {
    match attribute {
        6 | 8 | 10 | 13 | 15 | 21 => Value::Bool(false),
        9 => Value::Word(-2i32 as u32),
        2 | 14 | 16 => Value::Word(0),
        _ => Value::Wide(0),
    }
}

/// The attribute of the allocation at `address`; `None` where no allocation is.
fn attribute(state: &State, attribute: u32, address: u64) -> Result<Option<Value>> {
    let Ok((allocation, _)) = state.space.resolve(address, 1) else {
        return Ok(None);
    };
    let record = state.record_at(address);
    let owner_device = match allocation.owner {
        Owner::Device(device) => device,
        Owner::Host | Owner::Managed => record.map_or(0, |r| r.device),
    };
    let host = allocation.owner != Owner::Device(owner_device);
    Ok(Some(match attribute {
        1 => match record {
            Some(record) => Value::Wide(record.context.raw()),
            // A module's variable.
            None => Value::Wide(state.current()?.raw()),
        },
        2 => Value::Word(if allocation.owner == Owner::Host {
            memory_type::HOST
        } else {
            memory_type::DEVICE
        }),
        3 => Value::Wide(address),
        4 if host => Value::Wide(address),
        4 => fail!(
            INVALID_VALUE,
            "{address:#x} is device memory: it has no host pointer"
        ),
        5 => fail!(NOT_SUPPORTED, "peer-to-peer tokens are not emulated"),
        6 => Value::Bool(record.is_some_and(|r| r.sync_operations)),
        7 | 20 => Value::Wide(allocation.serial),
        8 => Value::Bool(allocation.owner == Owner::Managed),
        9 => Value::Word(owner_device),
        10 | 15 | 21 => Value::Bool(false),
        11 | 19 => Value::Wide(allocation.address),
        12 | 18 => Value::Wide(allocation.size),
        13 => Value::Bool(record.is_none_or(|r| !r.hidden)),
        14 => Value::Word(0),
        16 => Value::Word(3),
        17 => match record.map(|r| r.kind) {
            Some(MemoryKind::Pooled(pool)) => Value::Wide(pool.raw()),
            _ => Value::Wide(0),
        },
        _ => fail!(INVALID_VALUE, "pointer attribute {attribute}"),
    }))
}

driver_calls! { EXPORTS:
    fn cuPointerGetAttribute(out: Out<u8>, which: u32, address: u64) {
        out.check("data")?;
        match attribute(&*lock()?, which, address)? {
            Some(value) => value.put(out),
            None => fail!(INVALID_VALUE, "{address:#x} is not memory the driver knows"),
        }
    }

    fn cuPointerGetAttributes(count: u32, which: In<u32>, outs: In<*mut u8>, address: u64) {
        let which = which.all(count as usize, "attributes")?;
        let outs = outs.all(count as usize, "data")?;
        let state = lock()?;
        for (which, out) in which.into_iter().zip(outs) {
            // Unlike the call for one attribute, this one answers for unknown memory too, with nothing.
            let value = match attribute(&state, which, address) {
                Ok(Some(value)) => value,
                _ => zero(which),
            };
            value.put(Out::from_pointer(out))?;
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: In<u32>, which: u32, address: u64) {
        let value = value.get("value")?;
        let mut state = lock()?;
        if which != 6 {
            fail!(INVALID_VALUE, "pointer attribute {which} cannot be set");
        }
        let base = state.record_at(address).map(|r| r.base);
        match base.and_then(|b| state.memory.get_mut(&b)) {
            Some(record) => {
                record.sync_operations = value != 0;
                Ok(())
            }
            None => fail!(INVALID_VALUE, "{address:#x} is not memory the driver knows"),
        }
    }
}
