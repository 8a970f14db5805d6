//! Go templates over what lists and objects show, with the functions that Docker's `--format` knows
//! (docker/cli `templates/templates.go`).

use std::sync::Arc;

use gotmpl::{FuncMap, Template, TemplateError, Value, to_value};

use super::client::CliError;

/// Fills a template with a JSON value; `\t` and `\n` may be written out, as in Docker's formats.
pub(crate) fn fill(template: &str, value: &serde_json::Value) -> Result<String, CliError> {
    Filler::new(template)?.fill(value)
}

/// A template that was read once, for many rows.
pub(crate) struct Filler {
    template: Template,
}

impl Filler {
    /// Reads a template.
    pub(crate) fn new(source: &str) -> Result<Self, CliError> {
        let source = source.replace("\\t", "\t").replace("\\n", "\n");
        let template = Template::new("").funcs(functions()).parse(&source).map_err(refused)?;
        Ok(Self { template })
    }

    /// Fills it.
    pub(crate) fn fill(&self, value: &serde_json::Value) -> Result<String, CliError> {
        let value = to_value(value).map_err(refused)?;
        self.template.execute_to_string(&value).map_err(refused)
    }
}

fn refused(error: TemplateError) -> CliError {
    CliError::Usage(format!("template parsing error: {error}"))
}

fn functions() -> FuncMap {
    type Call = fn(&[Value]) -> Result<Value, TemplateError>;
    let functions: [(&str, Call); 9] = [
        ("json", |arguments| Ok(text(json(argument(arguments, 0)?).to_string()))),
        ("split", |arguments| {
            let parts = string(arguments, 0)?.split(string(arguments, 1)?);
            Ok(Value::List(parts.map(|part| text(part.to_owned())).collect()))
        }),
        ("join", |arguments| {
            let Value::List(parts) = argument(arguments, 0)? else {
                return Err(TemplateError::Exec("join: the first argument is no list".to_owned()));
            };
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            Ok(text(parts.join(string(arguments, 1)?)))
        }),
        ("title", |arguments| {
            let words = string(arguments, 0)?.split(' ').map(super::node::capitalised);
            Ok(text(words.collect::<Vec<_>>().join(" ")))
        }),
        ("lower", |arguments| Ok(text(string(arguments, 0)?.to_lowercase()))),
        ("upper", |arguments| Ok(text(string(arguments, 0)?.to_uppercase()))),
        ("pad", |arguments| {
            let (padded, before, after) = (string(arguments, 0)?, count(arguments, 1)?, count(arguments, 2)?);
            if padded.is_empty() {
                return Ok(text(String::new()));
            }
            Ok(text(format!("{}{padded}{}", " ".repeat(before), " ".repeat(after))))
        }),
        ("truncate", |arguments| {
            let length = count(arguments, 1)?;
            Ok(text(string(arguments, 0)?.chars().take(length).collect()))
        }),
        ("println", |arguments| {
            let words: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            Ok(text(words.join(" ") + "\n"))
        }),
    ];
    functions.into_iter().map(|(name, call)| (name.to_owned(), Arc::new(call) as gotmpl::ValueFunc)).collect()
}

/// Longest padding and truncation: more is a slip of the finger.
const COUNT_MAX: i64 = 10_000;

fn text(text: String) -> Value {
    Value::String(text.into())
}

fn argument(arguments: &[Value], number: usize) -> Result<&Value, TemplateError> {
    arguments.get(number).ok_or_else(|| TemplateError::Exec(format!("argument {} is missing", number + 1)))
}

fn string(arguments: &[Value], number: usize) -> Result<&str, TemplateError> {
    let argument = argument(arguments, number)?;
    argument.as_str().ok_or_else(|| TemplateError::Exec(format!("argument {} is no text", number + 1)))
}

fn count(arguments: &[Value], number: usize) -> Result<usize, TemplateError> {
    let count = argument(arguments, number)?.as_int().filter(|count| (0..=COUNT_MAX).contains(count));
    let count = count.and_then(|count| usize::try_from(count).ok());
    count
        .ok_or_else(|| TemplateError::Exec(format!("argument {} is no number up to {COUNT_MAX}", number + 1)))
}

/// The way back, for `json`.
fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(value) => (**value).into(),
        Value::List(values) => values.iter().map(json).collect(),
        Value::Map(values) => serde_json::Value::Object(
            values.iter().map(|(key, value)| (key.to_string(), json(value))).collect(),
        ),
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn dockers_functions_work() {
        let value = json!({
            "ID": "abcdef", "Spec": { "Labels": { "b": "2", "a": "1" } }, "Count": 3, "Up": true, "List": ["x", "y"],
        });
        for (template, expected) in [
            ("{{.ID}}\\t{{.Count}}", "abcdef\t3"),
            ("{{json .Spec.Labels}}", r#"{"a":"1","b":"2"}"#),
            (
                "{{json .}}",
                r#"{"Count":3,"ID":"abcdef","List":["x","y"],"Spec":{"Labels":{"a":"1","b":"2"}},"Up":true}"#,
            ),
            ("{{upper .ID}} {{title \"one two\"}} {{lower \"ABC\"}}", "ABCDEF One Two abc"),
            ("{{join .List \",\"}} {{index (split \"a:b\" \":\") 1}}", "x,y b"),
            ("{{truncate .ID 3}}|{{pad .ID 1 2}}|", "abc| abcdef  |"),
            ("{{range $key, $value := .Spec.Labels}}{{$key}}={{$value}};{{end}}", "a=1;b=2;"),
            ("{{if .Up}}yes{{else}}no{{end}}{{with .Absent}}x{{end}}", "yes"),
            ("{{if eq .Count 3}}three{{end}} {{len .List}} {{printf \"%05d\" .Count}}", "three 2 00003"),
        ] {
            assert_eq!(fill(template, &value).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn faults_are_named() {
        for template in
            ["{{", "{{.ID", "{{nosuch .ID}}", "{{template}}", "{{join .ID \",\"}}", "{{pad .ID 99999999 0}}"]
        {
            let error = fill(template, &json!({ "ID": "a", "List": [] })).unwrap_err().to_string();
            assert!(error.starts_with("template parsing error: "), "{template}: {error}");
        }
    }
}
