//! `features`: what this runtime can do.

use crate::error::Failure;
use crate::show;

/// Prints the document.
pub(crate) fn print() -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&skep_runtime::features::features());
    let text = text.map_err(|source| Failure::Json { what: "features".to_owned(), source })?;
    show::print(&format!("{text}\n"))
}
