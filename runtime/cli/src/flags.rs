//! Command lines by the grammar that runc's have: Go's `flag` package, as urfave/cli uses it.
//!
//! `-x` and `--x` are one flag, long or short; a value follows after `=` or as the next word, whatever that looks like;
//! a switch takes its value after `=` only; `--` ends the flags. Argument parsers for Rust know GNU's grammar instead.

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true` and the like.
    Switch,
    /// A value; the last one counts.
    Value,
    /// A number; the last one counts.
    Number,
    /// A value; all of them count.
    List,
}

/// A flag of a command.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<&'static str>,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
}

/// Where flags may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before, between and after the arguments.
    Anywhere,
    /// Before the first argument; what follows is another program's.
    First,
}

/// A command line, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    flags: Vec<(&'static str, String)>,
    pub(crate) arguments: Vec<String>,
}

/// Why a command line was not understood, in the words of Go's package.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    #[error("flag needs an argument: -{0}")]
    Missing(String),
    #[error("invalid boolean value {value:?} for -{name}: parse error")]
    Boolean { name: String, value: String },
    #[error("invalid value {value:?} for flag -{name}: parse error")]
    Number { name: String, value: String },
    #[error("bad flag syntax: {0}")]
    Syntax(String),
}

/// The flag that every command has.
pub(crate) const HELP: Flag = Flag { long: "help", short: Some("h"), kind: Kind::Switch, help: "show help" };

/// Reads `words` by the flags of `tables`.
pub(crate) fn parse(tables: &[&'static [Flag]], order: Order, words: &[String]) -> Result<Words, FlagError> {
    let mut parsed = Words::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.arguments.extend(words.cloned());
            break;
        }
        let Some(flag) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
            parsed.arguments.push(word.clone());
            if order == Order::First {
                parsed.arguments.extend(words.cloned());
                break;
            }
            continue;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        if flag.starts_with(['-', '=']) {
            return Err(FlagError::Syntax(word.clone()));
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut known = tables.iter().flat_map(|table| table.iter()).chain([&HELP]);
        let known = known.find(|known| known.long == name || known.short == Some(name));
        let known = known.ok_or_else(|| FlagError::Unknown(name.to_owned()))?;
        let value = match (known.kind, value) {
            (Kind::Switch, None) => "true".to_owned(),
            (_, Some(value)) => value,
            (_, None) => words.next().cloned().ok_or_else(|| FlagError::Missing(name.to_owned()))?,
        };
        match known.kind {
            Kind::Switch if boolean(&value).is_none() => {
                return Err(FlagError::Boolean { name: name.to_owned(), value });
            }
            Kind::Number if value.parse::<i64>().is_err() => {
                return Err(FlagError::Number { name: name.to_owned(), value });
            }
            _ => parsed.flags.push((known.long, value)),
        }
    }
    Ok(parsed)
}

/// Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Words {
    /// A switch's last value; `None` if it was not given.
    pub(crate) fn switch_given(&self, name: &str) -> Option<bool> {
        self.value(name).and_then(boolean)
    }

    /// Whether a switch is on.
    pub(crate) fn switch(&self, name: &str) -> bool {
        self.switch_given(name) == Some(true)
    }

    /// A flag's last value.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|flag| flag.0 == name).map(|flag| flag.1.as_str())
    }

    /// A flag's last value, if it is not empty: an empty one is none to runc.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// A number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.value(name)?.parse().ok()
    }

    /// All values of a flag.
    pub(crate) fn list(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |flag| flag.0 == name).map(|flag| flag.1.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { long: "force", short: Some("f"), kind: Kind::Switch, help: "" },
        Flag { long: "memory", short: None, kind: Kind::Value, help: "" },
        Flag { long: "env", short: Some("e"), kind: Kind::List, help: "" },
        Flag { long: "fds", short: None, kind: Kind::Number, help: "" },
    ];

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn read(order: Order, text: &str) -> Result<Words, FlagError> {
        parse(&[FLAGS], order, &words(text))
    }

    #[test]
    fn one_dash_or_two_and_values_that_look_like_flags() {
        let all = read(Order::Anywhere, "-force id --memory -1 -memory=2=3 -e A --env=B --fds 3").unwrap();
        assert!(all.switch("force"));
        assert_eq!(all.value("memory"), Some("2=3"));
        assert_eq!(all.list("env").collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(all.number("fds"), Some(3));
        assert_eq!(all.arguments, ["id"]);
        assert!(!read(Order::Anywhere, "--force=false").unwrap().switch("force"));
    }

    #[test]
    fn what_follows_the_first_argument_is_left_alone_where_it_is_anothers() {
        let first = read(Order::First, "-f id -x --memory").unwrap();
        assert_eq!(first.arguments, ["id", "-x", "--memory"]);
        let dashes = read(Order::Anywhere, "id -- -f").unwrap();
        assert_eq!(dashes.arguments, ["id", "-f"]);
        assert!(!dashes.switch("force"));
    }

    #[test]
    fn mistakes_are_named_as_go_names_them() {
        let text = |line: &str| read(Order::Anywhere, line).unwrap_err().to_string();
        assert_eq!(text("--nope"), "flag provided but not defined: -nope");
        assert_eq!(text("--memory"), "flag needs an argument: -memory");
        assert_eq!(text("-f=maybe"), "invalid boolean value \"maybe\" for -f: parse error");
        assert_eq!(text("--fds x"), "invalid value \"x\" for flag -fds: parse error");
        assert_eq!(text("---x"), "bad flag syntax: ---x");
    }
}
