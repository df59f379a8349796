//! What an operator should know of variables that are no errors.

use super::unused::unused_named;
use super::{Notice, PoolCidr, Reader, TABLE, Values};

/// Beginnings of names that are Calico's alone: one that is not known is a slip of the pen.
const CALICOS: [&str; 3] = ["FELIX_", "CALICO_IPV4POOL_", "CALICO_IPV6POOL_"];

/// Whether a name, in the form of the table, is Calico's, known or not.
pub(super) fn is_calicos(name: &str) -> bool {
    let begins = CALICOS.iter().any(|beginning| name.starts_with(beginning));
    begins || is_in_table(name) || unused_named(name).is_some()
}

fn is_in_table(name: &str) -> bool {
    TABLE.iter().any(|row| row.names.contains(&name))
}

/// Why a variable that the table lacks has no effect, by its name in the form of the table; `None` where nothing needs to be
/// said, because what it asks for is done anyway.
pub(super) fn without_effect(name: &str, text: &str) -> Option<String> {
    let Some(unused) = unused_named(name) else {
        return Some("ignored: this release has no such setting, and Calico has none".to_owned());
    };
    let same = |value: &&str| text.eq_ignore_ascii_case(value);
    (!text.is_empty() && !unused.done_anyway.iter().any(same))
        .then(|| format!("ignored: {}", unused.reason))
}

impl Reader {
    pub(super) fn notice_unused(&mut self, values: &Values) {
        for (cidr, field) in [
            (values.pool_cidr, "pool_cidr"),
            (values.pool6_cidr, "pool6_cidr"),
        ] {
            if let PoolCidr::Cidr(cidr) = cidr
                && self
                    .setting(field)
                    .is_some_and(|set| set.text != cidr.to_string())
            {
                self.notice(field, format!("the range used is {cidr}"));
            }
        }
        for (name, variable) in &self.variables {
            if is_in_table(name) {
                continue;
            }
            if let Some(message) = without_effect(name, variable.text.trim()) {
                let secret = name.ends_with("PASSWORD");
                self.notices.push(Notice {
                    variable: variable.name.clone(),
                    value: if secret { "…" } else { &variable.text }.to_owned(),
                    message,
                });
            }
        }
    }

    fn notice(&mut self, field: &str, message: String) {
        let (variable, value) = self.as_given(field);
        self.notices.push(Notice {
            variable,
            value,
            message,
        });
    }
}
