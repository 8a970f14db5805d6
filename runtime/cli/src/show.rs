//! `state`, `list` and `ps`.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use crate::app::Context;
use crate::error::Failure;
use crate::flags::Words;
use crate::groups::Place;
use crate::record::Document;

/// Narrowest column of a table, its gap included (runc's).
const COLUMN_MIN: usize = 12;

/// Gap between two columns.
const GAP: usize = 3;

/// Prints to standard output. A reader that has gone is an error like any other.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::system("write"))
}

/// Prints a container's state document.
pub(crate) fn state(context: &Context, id: &str) -> Result<(), Failure> {
    let record = context.store.load(id)?;
    let status = record.status(&context.store.directory(id)?);
    let text = serde_json::to_string_pretty(&record.document(status, String::new()));
    print(&text.map_err(|source| Failure::Json { what: "state".to_owned(), source })?)
}

/// Prints all containers.
pub(crate) fn list(context: &Context, words: &Words) -> Result<(), Failure> {
    let ids = match context.store.ids() {
        // Nobody has made a container yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !context.own_root => Vec::new(),
        ids => ids.map_err(Failure::path("open", context.store.root()))?,
    };
    let mut records = Vec::new();
    for id in ids {
        let loaded = context.store.directory(&id).and_then(|path| Ok((context.store.load(&id)?, path)));
        match loaded {
            Ok(loaded) => records.push(loaded),
            Err(failure) => drop(writeln!(io::stderr(), "load container {id}: {failure}")),
        }
    }
    let documents = records.iter().map(|(record, path)| record.document(record.status(path), owner(path)));
    let documents: Vec<_> = documents.collect();
    if words.switch("quiet") {
        return print(&records.iter().map(|(record, _)| format!("{}\n", record.id)).collect::<String>());
    }
    match words.value("format").unwrap_or("table") {
        "table" => print(&table(&documents, records.iter().map(|(record, _)| record.id.as_str()))),
        "json" => {
            // As Go writes an empty list.
            let none = documents.is_empty().then(|| "null".to_owned());
            let text = none.map_or_else(|| serde_json::to_string(&documents), Ok);
            let text = text.map_err(|source| Failure::Json { what: "list".to_owned(), source })?;
            print(&format!("{text}\n"))
        }
        _ => Err(Failure::Refused("invalid format option".to_owned())),
    }
}

/// Who owns a container's directory.
fn owner(directory: &Path) -> String {
    let Ok(metadata) = std::fs::symlink_metadata(directory) else { return String::new() };
    let user = nix::unistd::User::from_uid(metadata.uid().into()).ok().flatten();
    user.map_or_else(|| format!("#{}", metadata.uid()), |user| user.name)
}

fn table<'a>(documents: &[Document<'_>], ids: impl Iterator<Item = &'a str>) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let mut rows = vec![header];
    for (document, id) in documents.iter().zip(ids) {
        rows.push([
            id.to_owned(),
            document.pid.to_string(),
            document.status.to_owned(),
            document.bundle.display().to_string(),
            document.created.to_owned(),
            document.owner.clone(),
        ]);
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count() + GAP);
        cells.max().unwrap_or_default().max(COLUMN_MIN)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

/// Prints a container's processes, as ps(1) shows them.
pub(crate) fn ps(context: &Context, words: &Words) -> Result<(), Failure> {
    let id = words.arguments.first().map_or("", String::as_str);
    let record = context.store.load(id)?;
    let pids = record.cgroup.as_ref().map(Place::pids).unwrap_or_default();
    match words.value("format").unwrap_or("table") {
        "table" => {}
        "json" => {
            let list: Vec<_> = pids.iter().map(i32::to_string).collect();
            let text = if list.is_empty() { "null".to_owned() } else { format!("[{}]", list.join(",")) };
            return print(&format!("{text}\n"));
        }
        _ => return Err(Failure::Refused("invalid format option".to_owned())),
    }
    let own = &words.arguments[1..];
    let mut ps = Command::new("ps");
    if own.is_empty() {
        ps.arg("-ef")
    } else {
        ps.args(own)
    };
    let output = ps.output().map_err(Failure::system("exec ps"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let code = output.status.code().unwrap_or(-1);
        return Err(Failure::Refused(format!("exit status {code}: {said}")));
    }
    print(&of_these(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The title and the lines of these processes.
fn of_these(output: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = output.lines();
    let title = lines.next().unwrap_or_default();
    let column = title.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Failure::Refused("couldn't find PID field in ps output".to_owned()))?;
    let mut text = format!("{title}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_lines_are_chosen_by_the_column_of_their_title() {
        let output = "UID   PID CMD\nroot  12 a\nroot  7 12\n\nroot  x y\n";
        assert_eq!(of_these(output, &[12]).unwrap(), "UID   PID CMD\nroot  12 a\n");
        assert!(of_these("UID\n", &[1]).is_err());
    }

    #[test]
    fn the_table_is_laid_out_as_runcs() {
        assert_eq!(
            table(&[], [].into_iter()),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }
}
