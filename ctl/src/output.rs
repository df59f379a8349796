//! Objects on the terminal: tables, YAML, JSON, names, chosen columns, Go templates.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use api::key::Kind;
use api::object::Object;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Format;
use crate::print::{out, outln};

/// Least width of a column, and blanks between two.
const COLUMN: (usize, usize) = (5, 3);

/// How to print resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// calicoctl's columns, and with `true` the wide ones, too.
    Table { wide: bool },
    /// YAML or JSON.
    Data(Format),
    /// `kind/name` lines.
    Name,
    /// Headings of the wide table, or headings with the path of a field.
    Columns(Vec<Column>),
    /// A Go template over what JSON would show.
    Template(String),
    /// The same, in a file.
    TemplateFile(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    heading: String,
    /// `.spec.cidr`; a column of the wide table when there is none.
    path: Option<String>,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = match text.split_once('=') {
            Some((word, rest)) if !rest.is_empty() => (word, Some(rest)),
            _ => (text, None),
        };
        Ok(match (word, rest) {
            ("ps", None) => Self::Table { wide: false },
            ("wide", None) => Self::Table { wide: true },
            ("yaml", None) => Self::Data(Format::Yaml),
            ("json", None) => Self::Data(Format::Json),
            ("name", None) => Self::Name,
            ("custom-columns", Some(columns)) => {
                Self::Columns(columns.split(',').map(Column::read).collect())
            }
            ("go-template", Some(template)) => Self::Template(template.to_owned()),
            ("go-template-file", Some(file)) => Self::TemplateFile(file.into()),
            _ => return Err(
                "allowed: ps, wide, yaml, json, name, custom-columns=…, go-template=…, go-template-file=…"
                    .to_owned(),
            ),
        })
    }
}

impl Column {
    fn read(text: &str) -> Self {
        match text.split_once(':') {
            Some((heading, path)) => Self {
                heading: heading.to_owned(),
                path: Some(path.to_owned()),
            },
            None => Self {
                heading: text.to_uppercase(),
                path: None,
            },
        }
    }
}

/// Objects of one kind and what their table needs to know.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) kind: Kind,
    pub(crate) objects: Vec<Object>,
    /// Whether objects of several namespaces may be among them.
    pub(crate) all_namespaces: bool,
    /// The AS of nodes that name none.
    pub(crate) default_asn: u32,
}

impl Group {
    /// Headings and rows of the table.
    pub(crate) fn table(&self, wide: bool) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let mut names = self.kind.headings(wide);
        let shown = names.len();
        let with_namespace = self.all_namespaces && self.kind.namespaced();
        if with_namespace {
            names.insert(0, "NAMESPACE");
        }
        let row = |object: &Object| {
            let mut row = object.cells(self.default_asn);
            row.truncate(shown);
            if with_namespace {
                row.insert(0, object.metadata().namespace.clone());
            }
            row
        };
        (names, self.objects.iter().map(row).collect())
    }

    fn chosen(&self, columns: &[Column]) -> anyhow::Result<(Vec<String>, Vec<Vec<String>>)> {
        let (names, rows) = self.table(true);
        let mut rows: Vec<(Vec<String>, Vec<String>)> =
            rows.into_iter().map(|row| (row, Vec::new())).collect();
        for column in columns {
            let at = names.iter().position(|name| *name == column.heading);
            if column.path.is_none() && at.is_none() {
                bail!(
                    "column {:?} is none of {}; allowed: {}, or a heading with the path of a field, such as CIDR:.spec.cidr",
                    column.heading,
                    self.kind,
                    names.join(", ")
                );
            }
            for ((whole, chosen), object) in rows.iter_mut().zip(&self.objects) {
                chosen.push(match (&column.path, at) {
                    (None, Some(at)) => whole[at].clone(),
                    (path, _) => field(&value(object), path.as_deref().unwrap_or_default()),
                });
            }
        }
        let headings = columns.iter().map(|column| column.heading.clone());
        let chosen = rows.into_iter().map(|(_, chosen)| chosen);
        Ok((headings.collect(), chosen.collect()))
    }
}

/// Prints objects. `single` is one object asked for by name.
pub(crate) fn objects(groups: &[Group], output: &Output, single: bool) -> anyhow::Result<()> {
    match output {
        Output::Table { wide } => {
            for group in groups {
                let (headings, rows) = group.table(*wide);
                outln!("{}", table(&headings, &rows));
            }
        }
        Output::Columns(columns) => {
            for group in groups {
                let (headings, rows) = group.chosen(columns)?;
                let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
                outln!("{}", table(&headings, &rows));
            }
        }
        Output::Name => {
            for object in groups.iter().flat_map(|group| &group.objects) {
                let kind = object.kind().name().to_lowercase();
                outln!("{kind}/{}", object.metadata().name);
            }
        }
        Output::Data(format) => data(&whole(groups, single), *format)?,
        Output::Template(template) => out!("{}", render(template, &whole(groups, single))?),
        Output::TemplateFile(file) => {
            let template = std::fs::read_to_string(file)
                .with_context(|| format!("reading {}", file.display()))?;
            out!("{}", render(&template, &whole(groups, single))?);
        }
    }
    Ok(())
}

/// An object as JSON.
pub(crate) fn value(object: &Object) -> Value {
    serde_json::from_slice(&object.encode()).expect("an object encodes as JSON")
}

/// One object, or a list.
fn whole(groups: &[Group], single: bool) -> Value {
    let mut items: Vec<Value> = groups
        .iter()
        .flat_map(|group| group.objects.iter().map(value))
        .collect();
    if single && items.len() == 1 {
        return items.remove(0);
    }
    match groups {
        [group] => json!({
            "apiVersion": api::metadata::api_version(),
            "kind": format!("{}List", group.kind),
            "items": items,
        }),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": items}),
    }
}

/// The value at a path such as `.spec.cidr` or `.spec.interfaces[0].name`; `<none>` where there is none.
fn field(object: &Value, path: &str) -> String {
    let path = path.trim_start_matches('{').trim_end_matches('}');
    let mut at = object;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match step.strip_suffix(']') {
            Some(index) => index.parse::<usize>().ok().and_then(|index| at.get(index)),
            None => at.get(step),
        };
        let Some(next) = next else {
            return "<none>".to_owned();
        };
        at = next;
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

fn render(template: &str, value: &Value) -> anyhow::Result<String> {
    gtmpl::template(template, for_template(value))
        .map_err(|error| anyhow!("go-template {template:?}: {error}"))
}

fn for_template(value: &Value) -> gtmpl::Value {
    match value {
        Value::Null => gtmpl::Value::Nil,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => gtmpl::Value::Array(items.iter().map(for_template).collect()),
        Value::Object(fields) => gtmpl::Value::Map(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), for_template(value)))
                .collect(),
        ),
    }
}

/// Prints any value as JSON or YAML.
pub(crate) fn data(value: &impl Serialize, format: Format) -> anyhow::Result<()> {
    if format == Format::Yaml {
        out!("{}", serde_saphyr::to_string(value)?);
    } else {
        outln!("{}", serde_json::to_string_pretty(value)?);
    }
    Ok(())
}

/// Left-aligned columns, upper-case headings.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths = widths(headings, rows);
    let mut text = line(&widths, headings.iter().copied());
    for row in rows {
        text.push_str(&line(&widths, row.iter().map(String::as_str)));
    }
    text
}

/// Widths of the columns that these need.
pub(crate) fn widths(headings: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = headings.iter().map(|text| text.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// One line of a table.
pub(crate) fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        let width = (*width).max(COLUMN.0) + COLUMN.1;
        line.push_str(&format!("{cell:<width$}"));
    }
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_end_without_blanks() {
        let rows = vec![
            vec!["tor".to_owned(), "192.0.2.1".to_owned()],
            vec!["a-long-name".to_owned(), String::new()],
        ];
        let text = table(&["NAME", "PEERIP"], &rows);
        assert_eq!(
            text,
            "NAME          PEERIP\ntor           192.0.2.1\na-long-name\n"
        );
    }

    #[test]
    fn formats_are_read_and_others_are_named() {
        assert_eq!("wide".parse(), Ok(Output::Table { wide: true }));
        assert_eq!(
            "custom-columns=name,RANGE:.spec.cidr".parse(),
            Ok(Output::Columns(vec![
                Column {
                    heading: "NAME".to_owned(),
                    path: None
                },
                Column {
                    heading: "RANGE".to_owned(),
                    path: Some(".spec.cidr".to_owned())
                },
            ]))
        );
        for wrong in ["xml", "custom-columns=", "go-template", "yaml=x"] {
            assert!(wrong.parse::<Output>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let object = json!({"spec": {"list": [{"n": 7}], "text": "x", "nil": null}});
        for (path, found) in [
            (".spec.text", "x"),
            ("{.spec.list[0].n}", "7"),
            (".spec.list", "[{\"n\":7}]"),
            (".spec.list[1].n", "<none>"),
            (".spec.nil", "<none>"),
            (".status", "<none>"),
        ] {
            assert_eq!(field(&object, path), found, "{path}");
        }
    }

    #[test]
    fn a_template_sees_what_json_shows() {
        let list = json!({"items": [{"spec": {"asn": 65000}}, {"spec": {"asn": 1}}]});
        let template = "{{range .items}}{{.spec.asn}}{{\"\\n\"}}{{end}}";
        assert_eq!(render(template, &list).unwrap(), "65000\n1\n");
        let error = render("{{range", &list).unwrap_err().to_string();
        assert!(error.contains("{{range"), "{error}");
    }
}
