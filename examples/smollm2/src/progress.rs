//! A line of progress on a terminal, below text that is still growing.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// Where and how the line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere: nobody is watching.
    Nowhere,
    /// On the cursor's line: the text goes elsewhere.
    Here,
    /// On the line below the cursor, which the text owns.
    Below,
}

/// Counts and says on stderr how far it is, where that is a terminal.
pub struct Progress {
    place: Place,
    label: String,
    unit: String,
    total: usize,
    done: usize,
    started: Instant,
}

impl Progress {
    /// For `total` of `unit` (tokens, layers), of what `label` names.
    pub fn new(label: &str, unit: &str, total: usize) -> Self {
        let place = match (io::stderr().is_terminal(), io::stdout().is_terminal()) {
            (false, _) => Place::Nowhere,
            (true, false) => Place::Here,
            (true, true) => Place::Below,
        };
        Progress {
            place,
            label: label.to_owned(),
            unit: unit.to_owned(),
            total,
            done: 0,
            started: Instant::now(),
        }
    }

    /// Puts `text` on stdout, then counts one more.
    pub fn advance(&mut self, text: &str) -> io::Result<()> {
        self.done += 1;
        let seconds = self.started.elapsed().as_secs_f64();
        let line = status(&self.label, &self.unit, self.done, self.total, seconds);
        eprint!("{}", erase(self.place));
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        eprint!("{}", draw(self.place, &line));
        Ok(())
    }

    /// Says something on stderr that stays.
    pub fn note(&self, text: &str) {
        eprintln!("{}{text}", erase(self.place));
    }

    /// Removes the line.
    pub fn finish(self) {
        eprint!("{}", erase(self.place));
    }
}

fn status(label: &str, unit: &str, done: usize, total: usize, seconds: f64) -> String {
    let rate = done as f64 / seconds.max(1e-9);
    format!("{label} {done}/{total} {unit}, {rate:.1} a second")
}

/// The escape sequences that draw `line` and leave the cursor where it was.
fn draw(place: Place, line: &str) -> String {
    // Without wrapping (?7l), a line too long for the terminal is cut off instead of scrolling the text away.
    match place {
        Place::Nowhere => String::new(),
        Place::Here => format!("\r\x1b[2K\x1b[?7l{line}\x1b[?7h"),
        // Down one line (D), which makes room at the bottom of the screen, and up again ([A): then the cursor can be
        // kept (7), moved to the line below, and brought back (8).
        Place::Below => format!("\x1bD\x1b[A\x1b7\x1b[B\r\x1b[2K\x1b[?7l{line}\x1b[?7h\x1b8"),
    }
}

/// The escape sequences that remove a line drawn before.
fn erase(place: Place) -> &'static str {
    match place {
        Place::Nowhere => "",
        Place::Here => "\r\x1b[2K",
        Place::Below => "\x1b[J",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_and_how_fast() {
        assert_eq!(
            status("answer", "tokens", 12, 64, 6.0),
            "answer 12/64 tokens, 2.0 a second"
        );
    }

    #[test]
    fn nothing_is_drawn_where_nobody_watches() {
        assert_eq!(draw(Place::Nowhere, "x"), "");
        assert_eq!(erase(Place::Nowhere), "");
    }

    #[test]
    fn the_cursor_returns_to_the_text() {
        let drawn = draw(Place::Below, "x");
        let (saved, restored) = (drawn.find("\x1b7").unwrap(), drawn.find("\x1b8").unwrap());
        assert!(saved < drawn.find('x').unwrap() && restored == drawn.len() - 2);
        assert_eq!(erase(Place::Below), "\x1b[J");
    }
}
