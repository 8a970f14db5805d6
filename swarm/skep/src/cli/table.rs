//! Lists for people and for scripts: aligned tables, `--format json`, `--format '{{.Name}} {{.ID}}'`, `-q`.

use serde_json::{Map, Value};

use super::client::CliError;
use super::template::Filler;

/// One column: its name in templates and its heading.
pub(crate) type Column = (&'static str, &'static str);

/// A list of rows under fixed columns.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    /// How many of the columns people see.
    shown: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A list without rows.
    pub(crate) fn new(columns: &'static [Column]) -> Self {
        Self::with_hidden(columns, columns.len())
    }

    /// A list of which people see the first `shown` columns; templates and `json` know all.
    pub(crate) fn with_hidden(columns: &'static [Column], shown: usize) -> Self {
        Self { columns, shown, rows: Vec::new() }
    }

    /// Adds a row: one cell a column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The list as the user asked for it: `quiet` prints the first column alone.
    pub(crate) fn render(&self, format: Option<&str>, quiet: bool) -> Result<String, CliError> {
        let mut text = String::new();
        if quiet {
            for cells in &self.rows {
                text.push_str(cells.first().map_or("", String::as_str).trim_end_matches(" *"));
                text.push('\n');
            }
            return Ok(text);
        }
        match format {
            None | Some("table" | "") => return Ok(self.aligned()),
            Some("json") => {
                for cells in &self.rows {
                    text.push_str(&Value::Object(self.object(cells)).to_string());
                    text.push('\n');
                }
            }
            Some(template) => {
                let (headed, template) = match template.strip_prefix("table ") {
                    Some(template) => (true, template),
                    None => (false, template),
                };
                let filler = Filler::new(template)?;
                let mut lines = Vec::new();
                if headed {
                    let headings =
                        self.columns.iter().map(|(_, heading)| (*heading).to_owned()).collect::<Vec<_>>();
                    lines.push(filler.fill(&Value::Object(self.object(&headings)))?);
                }
                for cells in &self.rows {
                    lines.push(filler.fill(&Value::Object(self.object(cells)))?);
                }
                text = if headed {
                    tabbed(&lines)
                } else {
                    lines.iter().map(|line| format!("{line}\n")).collect()
                };
            }
        }
        Ok(text)
    }

    fn object(&self, cells: &[String]) -> Map<String, Value> {
        let names = self.columns.iter().map(|(name, _)| (*name).to_owned());
        names.zip(cells.iter().cloned().map(Value::String)).collect()
    }

    fn aligned(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(self.columns.iter().take(self.shown).map(|(_, heading)| *heading));
        for cells in &self.rows {
            table.add_row(cells.iter().take(self.shown));
        }
        let last = self.shown.saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 3 }));
        }
        table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}

/// Aligns what stands between tabs, three spaces apart.
fn tabbed(lines: &[String]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    let cells: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    for (index, cell) in cells.iter().flat_map(|line| line.iter().enumerate()) {
        let width = cell.chars().count();
        match widths.get_mut(index) {
            Some(widest) => *widest = width.max(*widest),
            None => widths.push(width),
        }
    }
    let mut text = String::new();
    for line in cells {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[("ID", "ID"), ("Name", "NAME")];

    fn sample() -> Table {
        let mut table = Table::new(COLUMNS);
        table.row(vec!["abc".to_owned(), "web".to_owned()]);
        table.row(vec!["d".to_owned(), "long-name".to_owned()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_headed() {
        assert_eq!(sample().render(None, false).unwrap(), "ID    NAME\nabc   web\nd     long-name\n");
    }

    #[test]
    fn scripts_get_json_templates_or_ids() {
        let table = sample();
        assert_eq!(table.render(None, true).unwrap(), "abc\nd\n");
        assert_eq!(
            table.render(Some("json"), false).unwrap().lines().next().unwrap(),
            r#"{"ID":"abc","Name":"web"}"#
        );
        assert_eq!(table.render(Some("{{.Name}}={{ .ID }}"), false).unwrap(), "web=abc\nlong-name=d\n");
        assert_eq!(
            table.render(Some("table {{.Name}}\\t{{.ID}}"), false).unwrap(),
            "NAME        ID\nweb         abc\nlong-name   d\n"
        );
        assert!(table.render(Some("{{nosuch .}}"), false).is_err());
    }
}
