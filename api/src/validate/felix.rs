//! Rules of `FelixConfiguration`: what the table of settings allows.

use serde_json::Value;

use super::{Fault, check_selector};
use crate::felix::{FIELDS, FelixConfiguration, Given, as_variable};
use crate::params::Params;

pub(crate) fn check(config: &FelixConfiguration, faults: &mut Vec<Fault>) {
    check_scope(config, faults);
    for (field, variable) in FIELDS {
        let Some(value) = config.spec.fields.get(field) else {
            continue;
        };
        if let Some(rule) = broken_rule(variable, value) {
            faults.push(Fault::new(format!("spec.{field}"), value, rule));
        }
    }
}

fn check_scope(config: &FelixConfiguration, faults: &mut Vec<Fault>) {
    let name = &config.metadata.name;
    let by_name = name == "default" || name.starts_with("node.");
    match &config.spec.node_selector {
        Some(selector) if by_name => faults.push(Fault::new(
            "spec.nodeSelector",
            selector,
            format!("must not be given in FelixConfiguration({name}), whose name says whose it is"),
        )),
        Some(selector) => check_selector("spec.nodeSelector", selector, faults),
        None if by_name || name.is_empty() => {}
        None => faults.push(Fault::new(
            "metadata.name",
            name,
            "must be `default`, or `node.` and a node's name, unless spec.nodeSelector is given",
        )),
    }
}

/// What the table of settings allows, if it does not allow this value.
fn broken_rule(variable: &'static str, value: &Value) -> Option<String> {
    let given = Given {
        place: String::new(),
        variable,
        text: as_variable(variable, value)?,
    };
    // Else the table asks for the address of a datastore.
    let store = ("TORTIE_STORE".to_owned(), "unix:/".to_owned());
    let params = Params::from_sources([store], &[given]).ok()?;
    let rejected = params.rejected().first()?;
    let seconds = rejected.allowed.starts_with("seconds");
    Some(if seconds {
        "must be a duration such as 90s; 0s for never".to_owned()
    } else {
        format!("must be {}", rejected.allowed)
    })
}
