//! The page about the parameters is what the table makes of it.

use std::fmt::Write as _;
use std::path::Path;

use api::felix::FIELDS;
use api::params::{EmptyText, Invalid, TABLE};

#[test]
fn the_page_about_parameters_is_current() {
    let page = page();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/parameters.md");
    if std::env::var_os("TORTIE_REGENERATE").is_some() {
        std::fs::write(&kept, &page).expect("the source tree is writable");
    }
    let current = std::fs::read_to_string(&kept).unwrap_or_default();
    assert!(
        current == page,
        "docs/reference/parameters.md is not what the table makes; run \
         `TORTIE_REGENERATE=1 cargo test -p api --test reference`"
    );
}

fn page() -> String {
    let mut page = String::from(
        "# Parameters of `tortie-node`\n\n\
         Made from the parameter table (`api/src/params/table.rs`); a test keeps it current.\n\n\
         All are environment variables; names that begin with `spec.` are fields of FelixConfigurations that mean the \
         same where the variable\nis not set: of the object `node.NAME` first, then of those whose `nodeSelector` selects \
         the node, then of `default`.\nNames that begin with `FELIX_` are read in any case. Where several names stand, \
         the first\none that is set counts. The empty text means the same as leaving a variable out, except where marked \
         with ¹, where it is a\nvalue. A wrong value stops the node, which names all wrong variables at once; where marked \
         with ², the default is taken and\nthe error is logged.\n\n\
         | Variable | Default | Allowed | What it does |\n|---|---|---|---|\n",
    );
    for row in TABLE {
        let fields = FIELDS.iter().filter(|(_, name)| row.names.contains(name));
        let names: Vec<String> = row
            .names
            .iter()
            .map(|name| format!("`{name}`"))
            .chain(fields.map(|(field, _)| format!("`spec.{field}`")))
            .collect();
        let marks = match (row.empty, row.invalid) {
            (EmptyText::IsValue, Invalid::Stops) => "¹",
            (EmptyText::IsUnset, Invalid::TakesDefault) => "²",
            (EmptyText::IsValue, Invalid::TakesDefault) => "¹ ²",
            (EmptyText::IsUnset, Invalid::Stops) => "",
        };
        let default = if row.default.is_empty() {
            String::new()
        } else {
            let unit = if row.unit.is_empty() {
                String::new()
            } else {
                format!(" {}", row.unit)
            };
            format!("`{}`{unit}", row.default.replace('|', "\\|"))
        };
        writeln!(
            page,
            "| {}{marks} | {default} | {} | {} |",
            names.join(", "),
            row.allowed.replace('|', "\\|"),
            row.doc.trim()
        )
        .expect("writing to a String never fails");
    }
    page
}
