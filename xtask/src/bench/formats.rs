//! The table of what each form of weights costs, in the page about weights.

use std::path::Path;
use std::process::Command;

use super::programs::{self, stdout};
use crate::Result;

const PAGE: &str = "docs/weights.md";

/// The table stands between these lines.
const BEGIN: &str = "<!-- cargo xtask bench formats -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Measures every form and writes the table anew.
pub(super) fn write_table(root: &Path) -> Result<()> {
    let program = programs::build(root, "formats")?;
    eprintln!("asking the demo model in every form ...");
    let table = stdout(&mut Command::new(program))?;
    let path = root.join(PAGE);
    let page = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    let page = with_table(&page, &table).ok_or_else(|| {
        format!(
            "{PAGE} has no lines `{}` and `{}`",
            BEGIN.trim(),
            END.trim()
        )
    })?;
    std::fs::write(&path, page)
        .map_err(|error| format!("cannot write `{}`: {error}", path.display()))?;
    print!("{table}");
    Ok(())
}

fn with_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n\n{END}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_put_between_its_lines() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        let written = with_table(&page, "| new |\n").unwrap();
        assert_eq!(written, format!("a\n{BEGIN}\n| new |\n\n{END}b\n"));
        assert_eq!(with_table(&written, "| new |\n").unwrap(), written);
        assert_eq!(with_table("a\n", "b"), None);
    }
}
