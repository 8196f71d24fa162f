//! Columns for people: as wide as their widest cell, two spaces between, no trailing blanks.

/// Lays out a table; the first row is its head.
#[must_use]
pub fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::layout;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let row = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect();
        let rows = [
            row(&["target", "tests", "verdict"]),
            row(&["gateway", "8", "green"]),
        ];
        assert_eq!(
            layout(&rows),
            "target   tests  verdict\ngateway  8      green\n"
        );
    }
}
