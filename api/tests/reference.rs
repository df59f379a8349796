//! The page about the parameters is what the table makes of it.

use std::fmt::Write as _;
use std::path::Path;

use api::felix::FIELDS;
use api::params::{EmptyText, Invalid, TABLE, UNUSED};

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
         with ², the default is taken and\nthe error is logged; where marked with ³, it means what stands there, which is logged, too.\n\n\
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
        let of_empty = match row.empty {
            EmptyText::IsValue => "¹",
            EmptyText::IsUnset => "",
        };
        let of_invalid = match row.invalid {
            Invalid::Stops => "",
            Invalid::TakesDefault => "²",
            Invalid::MeansTrue | Invalid::MeansFalse => "³",
        };
        let both = !of_empty.is_empty() && !of_invalid.is_empty();
        let marks = format!("{of_empty}{}{of_invalid}", if both { " " } else { "" });
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
    page.push_str(
        "\n## Calico's variables without effect\n\n\
         Known, and of no effect in this release: one that is set is named in the log, unless its value asks for what is \
         done anyway.\n`*` stands for anything.\n\n\
         | Variable | Done anyway | Why |\n|---|---|---|\n",
    );
    let quoted = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|text| format!("`{text}`")).collect();
        texts.join(", ")
    };
    for unused in UNUSED {
        let (names, values) = (quoted(unused.names), quoted(unused.done_anyway));
        writeln!(page, "| {names} | {values} | {} |", unused.reason)
            .expect("writing to a String never fails");
    }
    page
}
