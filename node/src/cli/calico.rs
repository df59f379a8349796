//! Command lines written for calico/node, in this program's words.
//!
//! Two forms exist: `calico-node` with flags of one dash (`calico-node -felix-live -bird-ready`), and the program
//! `calico` with words (`calico component node health --felix-live`, `calico health --port 9099 --type readiness`).
//! Either is understood whatever name the program was called by.

/// A flag of calico-node that chooses what to do, and what is done here. The first one of this order counts, as there.
const CHOICES: [(&str, &[&str]); 17] = [
    ("v", &["version"]),
    ("init", &["init"]),
    ("hostpath-init", &["hostpath-init"]),
    ("startup", &["startup"]),
    ("shutdown", &["shutdown"]),
    ("node-services", &["node-services"]),
    ("monitor-addresses", &["monitor-addresses"]),
    (
        "allocate-tunnel-addrs-run-once",
        &["allocate-tunnel-addrs", "--run-once"],
    ),
    ("allocate-tunnel-addrs", &["allocate-tunnel-addrs"]),
    ("monitor-token", &["monitor-token"]),
    ("complete-startup", &["complete-startup"]),
    ("status-reporter", &["status", "report"]),
    ("show-status", &["status", "show"]),
    ("felix", &["felix"]),
    ("confd", &["confd"]),
    ("bpf", &["bpf"]),
    ("flows", &["flows"]),
];

/// Flags of calico-node that are checks of health; `threshold-time` has a value.
const CHECKS: [&str; 7] = [
    "felix-live",
    "felix-ready",
    "bird-live",
    "bird-ready",
    "bird6-live",
    "bird6-ready",
    "threshold-time",
];

/// The arguments with the program's name first, as [`super::Arguments`] reads them.
pub fn in_own_words(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut arguments: Vec<String> = arguments.collect();
    if arguments.is_empty() {
        return arguments;
    }
    let program = arguments.remove(0);
    let rest = match arguments.first().map(String::as_str) {
        // `calico component node health`, `calico component felix`.
        Some("component") => {
            let skip = if arguments.get(1).map(String::as_str) == Some("node") {
                2
            } else {
                1
            };
            arguments.split_off(skip)
        }
        Some("health") => arguments.into_iter().map(check_with_two_dashes).collect(),
        Some(first) if first.starts_with('-') => from_flags(arguments),
        _ => arguments,
    };
    std::iter::once(program).chain(rest).collect()
}

/// A flag's name without its dashes and value; `None` for what is no flag.
fn flag(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix("--");
    let name = name.or_else(|| argument.strip_prefix('-'))?;
    name.split('=').next().filter(|name| !name.is_empty())
}

fn is_check(argument: &str) -> bool {
    flag(argument).is_some_and(|name| CHECKS.contains(&name))
}

fn check_with_two_dashes(argument: String) -> String {
    if is_check(&argument) && !argument.starts_with("--") {
        format!("-{argument}")
    } else {
        argument
    }
}

/// Flags of calico-node as a command; arguments that are none of them stay as they are.
fn from_flags(arguments: Vec<String>) -> Vec<String> {
    if arguments.iter().any(|argument| is_check(argument)) {
        let checks = arguments.into_iter().map(check_with_two_dashes);
        return std::iter::once("health".to_owned()).chain(checks).collect();
    }
    let given = |wanted: &str| {
        let mut flags = arguments.iter().filter_map(|argument| flag(argument));
        flags.any(|name| name == wanted)
    };
    match CHOICES.iter().find(|(name, _)| given(name)) {
        Some((_, words)) => words.iter().map(ToString::to_string).collect(),
        None => arguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(given: &[&str]) -> Vec<String> {
        let mut words = in_own_words(given.iter().map(ToString::to_string));
        words.remove(0);
        words
    }

    #[test]
    fn flags_of_calico_node_become_commands() {
        for (given, expected) in [
            (&["-v"][..], &["version"][..]),
            (&["-init", "-best-effort"], &["init"]),
            (&["-hostpath-init"], &["hostpath-init"]),
            (&["-startup"], &["startup"]),
            (&["-startup", "-complete-startup"], &["startup"]),
            (&["-complete-startup"], &["complete-startup"]),
            (&["-shutdown"], &["shutdown"]),
            (&["--shutdown"], &["shutdown"]),
            (&["-allocate-tunnel-addrs"], &["allocate-tunnel-addrs"]),
            (
                &["-allocate-tunnel-addrs", "-allocate-tunnel-addrs-run-once"],
                &["allocate-tunnel-addrs", "--run-once"],
            ),
            (&["-monitor-addresses"], &["monitor-addresses"]),
            (&["-monitor-token"], &["monitor-token"]),
            (&["-status-reporter"], &["status", "report"]),
            (&["-show-status"], &["status", "show"]),
            (&["-node-services"], &["node-services"]),
            (&["-felix"], &["felix"]),
            (&["-confd", "-confd-confdir=/etc/calico/confd"], &["confd"]),
            (&["-confd", "-confd-run-once"], &["confd"]),
            (&["-bpf", "nat", "dump"], &["bpf"]),
            (&["-flows", "5"], &["flows"]),
        ] {
            let all = [&["/bin/calico-node"], given].concat();
            assert_eq!(words(&all), expected, "{given:?}");
        }
    }

    #[test]
    fn checks_of_calico_node_are_combined_in_one_command() {
        let given = ["calico-node", "-felix-live", "-bird-ready"];
        assert_eq!(words(&given), ["health", "--felix-live", "--bird-ready"]);
        let given = ["tortie-node", "health", "-bird6-live", "-threshold-time=5s"];
        assert_eq!(
            words(&given),
            ["health", "--bird6-live", "--threshold-time=5s"]
        );
        let given = ["calico-node", "--bird-ready", "-threshold-time", "5s"];
        assert_eq!(
            words(&given),
            ["health", "--bird-ready", "--threshold-time", "5s"]
        );
    }

    #[test]
    fn words_of_calico_lose_the_component_that_this_program_is() {
        let given = ["calico", "component", "node", "health", "--felix-live"];
        assert_eq!(words(&given), ["health", "--felix-live"]);
        let given = ["calico", "component", "node", "status", "show"];
        assert_eq!(words(&given), ["status", "show"]);
        assert_eq!(words(&["calico", "component", "felix"]), ["felix"]);
        let given = ["calico", "health", "--port", "9099", "--type=readiness"];
        assert_eq!(
            words(&given),
            ["health", "--port", "9099", "--type=readiness"]
        );
        for own in [&["--help"][..], &["--version"], &["health", "--felix-live"]] {
            let all = [&["tortie-node"], own].concat();
            assert_eq!(words(&all), own);
        }
        assert!(words(&["tortie-node"]).is_empty());
        assert!(in_own_words(std::iter::empty()).is_empty());
    }
}
