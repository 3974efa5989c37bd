//! The table for people.

use std::fmt::Write;

use crate::record::Record;

/// What stands in a column of figures: a title, and the figure as text.
type Column = (&'static str, fn(&Record) -> String);

const COLUMNS: &[Column] = &[
    ("op", |r| r.op.into()),
    ("type", |r| r.dtype.into()),
    ("D", |r| r.head_dim.to_string()),
    ("G", |r| r.group_size.to_string()),
    ("Hkv", |r| r.num_kv_heads.to_string()),
    ("B", |r| r.batch.to_string()),
    ("seq", |r| r.seq_len.to_string()),
    ("splits", |r| {
        format!("{}{}", r.num_splits, if r.planned { "*" } else { "" })
    }),
    ("launches", |r| r.launches.to_string()),
    ("blocks", |r| r.blocks.to_string()),
    ("waves", |r| fraction(r.waves, 2)),
    ("PTX", |r| r.warp_instructions.to_string()),
    ("B/PTX", |r| {
        fraction(Some(r.kv_bytes_per_warp_instruction), 1)
    }),
    ("B/sm_80", |r| machine(r, "sm_80")),
    ("B/sm_90", |r| machine(r, "sm_90")),
    ("load", |r| fraction(Some(r.global_load_ratio), 3)),
    ("sectors", |r| fraction(Some(r.sector_ratio), 2)),
    ("conflicts", |r| r.shared_bank_conflicts.to_string()),
    ("local", |r| r.local_bytes.to_string()),
    ("regs", registers),
    ("spills", |r| whole(r.spill_bytes)),
    ("blocks/SM", |r| {
        format!("{} {}", whole(r.blocks_per_sm), r.limited_by.join("+"))
    }),
    ("KiB/SM", |r| {
        fraction(r.bytes_in_flight_per_sm.map(|b| b as f64 / 1024.0), 1)
    }),
];

/// What the columns mean, for under the table.
const LEGEND: &str = "\
splits *: the plan's own number. PTX: instructions that warps executed. B/…: bytes of K and V for each instruction
that a warp issues, of PTX as executed and of machine code, over the whole launch. load: bytes loaded ÷ bytes of K,
V and q. sectors: taken ÷ fewest possible. regs: of sm_80 and sm_90. KiB/SM: asynchronous copies in flight on an SM
that holds all the blocks it can. Counted on the emulated device; no figure is a time.";

fn whole(value: Option<u64>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn fraction(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

fn machine(record: &Record, arch: &str) -> String {
    let figure = record.machine.get(arch);
    fraction(figure.and_then(|m| m.kv_bytes_per_instruction), 1)
}

fn registers(record: &Record) -> String {
    let of = |arch| record.machine.get(arch).and_then(|m| m.registers);
    format!("{}/{}", whole(of("sm_80")), whole(of("sm_90")))
}

/// The records, a line each.
pub fn table(records: &[Record]) -> String {
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| COLUMNS.iter().map(|(_, text)| text(record)).collect())
        .collect();
    let width = |column: usize| {
        let texts = rows.iter().map(|row| row[column].len());
        texts.chain([COLUMNS[column].0.len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let titles: Vec<String> = COLUMNS.iter().map(|(title, _)| (*title).into()).collect();
    let mut out = String::new();
    for row in std::iter::once(&titles).chain(&rows) {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(text, width)| format!("{text:>width$}"))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    let _ = writeln!(out, "\n{LEGEND}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn columns_stand_under_their_titles() {
        let text = table(&[record(), record()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], lines[2]);
        let end = |line: &str, what: &str| line.find(what).map(|at| at + what.len());
        assert_eq!(
            end(lines[0], "conflicts"),
            end(lines[1], " 10 ").map(|end| end - 1)
        );
        assert!(
            lines[1].contains("-/103") && lines[1].contains("3 registers"),
            "{text}"
        );
    }
}
