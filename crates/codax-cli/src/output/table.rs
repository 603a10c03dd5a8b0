//! Plain tables: no frames, nothing cut, numbers to the right.

use super::text::printable;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table with these headings; a heading that starts with `>` puts its column to the right.
pub fn new(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (i, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// Adds a row; its cells can't do anything to a terminal.
pub fn row<const N: usize>(table: &mut Table, cells: [String; N]) {
    table.add_row(cells.map(|cell| printable(&cell)));
}

/// The table as lines, without spaces at their ends.
pub fn text(table: &Table) -> String {
    table.lines().fold(String::new(), |mut out, line| {
        out.push_str(line.trim_end());
        out.push('\n');
        out
    })
}

/// Pairs of a heading and what is to say about it, a line each; empty values are left out.
pub fn facts<'a>(facts: impl AsRef<[(&'a str, String)]>) -> String {
    let facts = facts.as_ref();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    facts.iter().filter(|(_, value)| !value.is_empty()).fold(String::new(), |mut out, (name, value)| {
        for (i, line) in value.lines().enumerate() {
            let name = if i == 0 { name } else { "" };
            out.push_str(format!("{name:width$}  {}", printable(line)).trim_end());
            out.push('\n');
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_and_escaped() {
        let mut table = new(&["name", ">bytes"]);
        row(&mut table, ["a\x1b".to_owned(), "5".to_owned()]);
        row(&mut table, ["longer".to_owned(), "1234567".to_owned()]);
        assert_eq!(text(&table), "name       bytes\na\\u{1b}        5\nlonger   1234567\n");
    }

    #[test]
    fn facts_line_up_and_empty_ones_go() {
        let text = facts([("a", "1".to_owned()), ("bcd", String::new()), ("bc", "2\n3".to_owned())]);
        assert_eq!(text, "a    1\nbc   2\n     3\n");
    }
}
