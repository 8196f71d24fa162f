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

/// Words in lines of at most so many columns, all but the first line indented. A word that is longer
/// has a line of its own.
#[must_use]
pub fn paragraph(text: &str, columns: usize, indent: usize) -> String {
    let (mut told, mut column) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == 0 {
            column = length;
        } else if column + 1 + length <= columns {
            told.push(' ');
            column += 1 + length;
        } else {
            told.push_str(&format!("\n{:indent$}", ""));
            column = indent + length;
        }
        told.push_str(word);
    }
    told + "\n"
}

#[cfg(test)]
mod tests {
    use super::{layout, paragraph};

    #[test]
    fn a_paragraph_keeps_to_its_columns() {
        assert_eq!(paragraph("one two three", 9, 2), "one two\n  three\n");
        assert_eq!(paragraph("one two three", 13, 2), "one two three\n");
        assert_eq!(
            paragraph("a longer-than-that b", 6, 1),
            "a\n longer-than-that\n b\n"
        );
        assert_eq!(paragraph("", 6, 1), "\n");
    }

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
