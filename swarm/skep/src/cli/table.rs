//! Lists for people and for scripts: aligned tables, `--format json`, `--format '{{.Name}} {{.ID}}'`, `-q`.

use serde_json::{Map, Value};

use super::client::CliError;

/// One column: its name in templates and its heading.
pub(crate) type Column = (&'static str, &'static str);

/// A list of rows under fixed columns.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A list without rows.
    pub(crate) fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: Vec::new() }
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
                for cells in &self.rows {
                    text.push_str(&fill(template, &Value::Object(self.object(cells)))?);
                    text.push('\n');
                }
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
        table.set_header(self.columns.iter().map(|(_, heading)| *heading));
        for cells in &self.rows {
            table.add_row(cells);
        }
        let last = self.columns.len().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 3 }));
        }
        table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}

/// Fills a template: `{{.A.B}}` and `{{json .A}}` over a JSON value, `\t` and `\n` as tab and newline.
pub(crate) fn fill(template: &str, value: &Value) -> Result<String, CliError> {
    let template = template.replace("\\t", "\t").replace("\\n", "\n");
    let mut text = String::new();
    let mut rest = template.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let (action, tail) = after.split_once("}}").ok_or_else(|| {
            CliError::Usage(format!("template parsing error: unclosed action in {template:?}"))
        })?;
        let action = action.trim();
        let (as_json, path) = match action.strip_prefix("json ") {
            Some(path) => (true, path.trim()),
            None => (false, action),
        };
        let found = look_up(value, path).ok_or_else(|| {
            CliError::Usage(format!(
                "template parsing error: {action:?} is not understood; fields are written {{{{.Name}}}} or {{{{json .Name}}}}"
            ))
        })?;
        match found {
            Value::String(plain) if !as_json => text.push_str(plain),
            Value::Null if !as_json => text.push_str("<no value>"),
            other => text.push_str(&other.to_string()),
        }
        rest = tail;
    }
    text.push_str(rest);
    Ok(text)
}

fn look_up<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    const ABSENT: &Value = &Value::Null;
    let path = path.strip_prefix('.')?;
    if path.is_empty() {
        return Some(value);
    }
    if path.contains(|letter: char| !(letter.is_alphanumeric() || letter == '.' || letter == '_')) {
        return None;
    }
    Some(path.split('.').fold(value, |value, name| match value {
        Value::Array(elements) => {
            name.parse().ok().and_then(|index: usize| elements.get(index)).unwrap_or(ABSENT)
        }
        _ => value.get(name).unwrap_or(ABSENT),
    }))
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
        assert!(table.render(Some("{{range .}}"), false).is_err());
    }
}
