//! Tables for people, as Markdown.

/// `rows` of as many cells each, the first of them the header, in columns aligned to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        })
        .collect();
    let mut table = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            table += &format!("| {cell:>width$} ");
        }
        table += "|\n";
        if index == 0 {
            for width in &widths {
                table += &format!("|{:-<1$}:", "", width + 1);
            }
            table += "|\n";
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["cache", "×"], ["f16", "1.25"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&rows),
            "| cache |    × |\n|------:|-----:|\n|   f16 | 1.25 |\n"
        );
    }
}
