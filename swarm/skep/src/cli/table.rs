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
    /// How people see it where not all columns as they are: a template.
    shown: Option<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    /// A list without rows.
    pub(crate) fn new(columns: &'static [Column]) -> Self {
        Self { columns, shown: None, rows: Vec::new() }
    }

    /// A list that people see through a template; other templates and `json` know all columns.
    pub(crate) fn shown_as(columns: &'static [Column], template: &'static str) -> Self {
        Self { columns, shown: Some(template), rows: Vec::new() }
    }

    /// Adds a row: one cell a column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.values(cells.into_iter().map(Value::String).collect());
    }

    /// Adds a row of which not every cell is a text.
    pub(crate) fn values(&mut self, cells: Vec<Value>) {
        self.rows.push(cells);
    }

    /// The list as the user asked for it: `quiet` prints the first column alone, unless there is a template.
    pub(crate) fn render(&self, format: Option<&str>, quiet: bool) -> Result<String, CliError> {
        match format {
            None | Some("table" | "") if quiet => {
                let first =
                    |cells: &Vec<Value>| cells.first().and_then(Value::as_str).map(|id| format!("{id}\n"));
                Ok(self.rows.iter().filter_map(first).collect())
            }
            None | Some("table" | "") => match self.shown {
                Some(template) => self.filled(template, true),
                None => Ok(self.aligned()),
            },
            Some("json") => {
                let line = |cells: &Vec<Value>| format!("{}\n", Value::Object(self.object(cells)));
                Ok(self.rows.iter().map(line).collect())
            }
            Some(template) => match template.strip_prefix("table ") {
                Some(template) => self.filled(template, true),
                None => self.filled(template, false),
            },
        }
    }

    fn filled(&self, template: &str, headed: bool) -> Result<String, CliError> {
        let filler = Filler::new(template)?;
        let mut lines = Vec::new();
        if headed {
            let headings: Vec<Value> = self.columns.iter().map(|(_, heading)| (*heading).into()).collect();
            lines.push(filler.fill(&Value::Object(self.object(&headings)))?);
        }
        for cells in &self.rows {
            lines.push(filler.fill(&Value::Object(self.object(cells)))?);
        }
        Ok(if headed { tabbed(&lines) } else { lines.iter().map(|line| format!("{line}\n")).collect() })
    }

    fn object(&self, cells: &[Value]) -> Map<String, Value> {
        let names = self.columns.iter().map(|(name, _)| (*name).to_owned());
        names.zip(cells.iter().cloned()).collect()
    }

    fn aligned(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(self.columns.iter().map(|(_, heading)| *heading));
        for cells in &self.rows {
            let plain = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
            table.add_row(cells.iter().map(plain));
        }
        let last = self.columns.len().saturating_sub(1);
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
        assert_eq!(
            table.render(Some("{{.Name}}"), true).unwrap(),
            "web\nlong-name\n",
            "a template comes first"
        );
        assert!(table.render(Some("{{nosuch .}}"), false).is_err());
    }

    #[test]
    fn a_table_may_be_shown_through_a_template_and_hold_more_than_texts() {
        const COLUMNS: &[Column] = &[("ID", "ID"), ("Up", "")];
        let mut table = Table::shown_as(COLUMNS, "{{.ID}} {{if .Up}}*{{end}}\t{{.ID}}");
        table.values(vec!["a".into(), true.into()]);
        table.values(vec!["b".into(), false.into()]);
        assert_eq!(table.render(None, false).unwrap(), "ID    ID\na *   a\nb     b\n");
        assert_eq!(table.render(Some("{{if .Up}}up{{else}}down{{end}}"), false).unwrap(), "up\ndown\n");
        assert_eq!(
            table.render(Some("json"), false).unwrap(),
            "{\"ID\":\"a\",\"Up\":true}\n{\"ID\":\"b\",\"Up\":false}\n"
        );
        assert_eq!(table.render(None, true).unwrap(), "a\nb\n");
    }
}
