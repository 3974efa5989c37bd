//! Functions that the driver provides to device code: `vprintf`, `__assertfail`, `malloc`, `free`.

use super::program::{Flow, Handler, Inst};
use super::warp::Warp;
use crate::check::FaultKind;

/// The handler of a call to a system function, if `name` is one.
pub fn handler(name: &str) -> Option<Handler> {
    Some(match name {
        "vprintf" => print,
        "__assertfail" => assert_failed,
        _ => return None,
    })
}

/// `int vprintf(const char *format, void *arguments)`.
unsafe fn print(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    for lane in super::access::bits(mask) {
        // Extra operands: one return, its offset; two arguments, their offsets.
        let format = w.argument(i, lane, 0, 8);
        let arguments = w.argument(i, lane, 1, 8);
        match w.format(lane, format, arguments) {
            Ok(text) => {
                let mut out = w.launch().printed.lock().unwrap_or_else(|e| e.into_inner());
                out.push_str(&text);
                drop(out);
                w.give_back(i, lane, text.len() as u32);
            }
            Err(message) => return w.fault(FaultKind::Illegal, 1 << lane, message),
        }
    }
    Flow::Next
}

/// `void __assertfail(message, file, line, function, char size)`.
unsafe fn assert_failed(w: &mut Warp, i: &Inst, mask: u32) -> Flow {
    let lane = mask.trailing_zeros() as usize;
    let text = |w: &mut Warp, k| {
        let address = w.argument(i, lane, k, 8);
        w.text(lane, address).unwrap_or_else(|_| "?".into())
    };
    let (message, file, function) = (text(w, 0), text(w, 1), text(w, 3));
    let line = w.argument(i, lane, 2, 4);
    w.fault(
        FaultKind::Assert,
        mask,
        format!("{file}:{line}: {function}: assertion `{message}` failed"),
    )
}

impl Warp {
    /// Argument `k` of a system call, of `size` bytes.
    fn argument(&self, i: &Inst, lane: usize, k: usize, size: usize) -> u64 {
        let returns = self.extra(i, 0) as usize;
        let at = self.frame + self.extra(i, 2 + returns + k);
        let mut value = [0u8; 8];
        value[..size].copy_from_slice(self.local.bytes(lane, at as usize, size));
        u64::from_le_bytes(value)
    }

    /// Stores the 32-bit result of a system call.
    fn give_back(&mut self, i: &Inst, lane: usize, value: u32) {
        if self.extra(i, 0) == 0 {
            return;
        }
        let at = (self.frame + self.extra(i, 1)) as usize;
        self.local.mark(lane, at, 4, true);
        let to = self.local.at(lane, at);
        // SAFETY: the return variable lies in the thread's frame.
        unsafe { to.cast::<u32>().write_unaligned(value) };
    }

    /// Bytes at a generic address, as device code would read them.
    fn peek(&self, lane: usize, address: u64, out: &mut [u8]) -> Result<(), String> {
        use crate::memory::LOCAL_WINDOW;
        use crate::ptx::ast::Space;
        if super::access::window(address) == Space::Local {
            let at = (address - LOCAL_WINDOW) as usize;
            if at + out.len() > self.local.stride() as usize {
                return Err(format!("read past local memory at {address:#x}"));
            }
            out.copy_from_slice(self.local.bytes(lane, at, out.len()));
            return Ok(());
        }
        self.launch()
            .space
            .read(address, out)
            .map_err(|e| e.to_string())
    }

    /// A NUL-terminated string at a generic address.
    fn text(&self, lane: usize, address: u64) -> Result<String, String> {
        let mut bytes = Vec::new();
        // Longer than this is no message.
        for k in 0..4096 {
            let mut byte = [0];
            self.peek(lane, address + k, &mut byte)?;
            if byte[0] == 0 {
                break;
            }
            bytes.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What `printf` would print.
    fn format(&self, lane: usize, format: u64, arguments: u64) -> Result<String, String> {
        let format = self.text(lane, format)?;
        let mut out = String::new();
        let mut at = arguments;
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            if rest.peek() == Some(&'%') {
                rest.next();
                out.push('%');
                continue;
            }
            let mut spec = String::new();
            let mut long = false;
            let conversion = loop {
                match rest.next() {
                    Some(c @ ('-' | '+' | ' ' | '#' | '.' | '0'..='9')) => spec.push(c),
                    Some('l' | 'z' | 'j' | 't') => long = true,
                    Some('h') => {}
                    Some('*') => {
                        let mut value = [0; 4];
                        self.peek(lane, at, &mut value)?;
                        at += 4;
                        spec.push_str(&i32::from_le_bytes(value).to_string());
                    }
                    Some(c) => break c,
                    None => return Err(format!("format `{format}` ends inside a conversion")),
                }
            };
            let size = if long
                || matches!(
                    conversion,
                    's' | 'p' | 'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A'
                ) {
                8
            } else {
                4
            };
            // Arguments lie one after another, each aligned to its size.
            at = at.next_multiple_of(size);
            let mut value = [0; 8];
            self.peek(lane, at, &mut value[..size as usize])?;
            at += size;
            let bits = u64::from_le_bytes(value);
            let text = if conversion == 's' {
                Some(self.text(lane, bits)?)
            } else {
                None
            };
            out.push_str(&super::printf::convert(
                conversion,
                &spec,
                long,
                bits,
                text.as_deref(),
            )?);
        }
        Ok(out)
    }
}
