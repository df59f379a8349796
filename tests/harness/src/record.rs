//! What was skipped, handed from each test program to the run's last one.
//!
//! A file per program, beside the programs of the profile (`target/debug/skipped/<pid of cargo>-<pid>`). Programs of one run have one
//! parent, so that nothing of an earlier run is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A skipped test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skipped {
    /// What is missing.
    pub id: String,
    /// What was looked for.
    pub reason: String,
    /// The test's name.
    pub test: String,
}

/// Before each skipped test, in records and in what an inner run says.
const WORD: &str = "skipped";

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORD}\t{}\t{}\t{}", self.id, self.test, self.reason)
    }
}

impl Skipped {
    /// Of a line as [`fmt::Display`] writes it.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, '\t');
        (fields.next()? == WORD).then_some(())?;
        let (id, test, reason) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            id: id.to_owned(),
            reason: reason.to_owned(),
            test: test.to_owned(),
        })
    }
}

/// The lines that sum up: how many, then for each id how many and why.
pub(crate) fn summary(skipped: &[Skipped], of_what: &str) -> String {
    let mut by_id: BTreeMap<&str, Vec<&Skipped>> = BTreeMap::new();
    for one in skipped {
        by_id.entry(&one.id).or_default().push(one);
    }
    let ids: Vec<String> = by_id
        .iter()
        .map(|(id, tests)| format!("{} {id}", tests.len()))
        .collect();
    let mut text = match skipped.len() {
        0 => format!("skipped {of_what}: none\n"),
        count => format!("skipped {of_what}: {count} ({})\n", ids.join(", ")),
    };
    for (id, tests) in by_id {
        text.push_str(&format!("    {id}: {}\n", tests[0].reason));
    }
    text
}

/// Leaves what this program skipped for the run's last program. Nothing, when it skipped nothing.
pub(crate) fn leave(skipped: &[Skipped]) -> io::Result<()> {
    let Some((folder, run)) = place().filter(|_| !skipped.is_empty()) else {
        return Ok(());
    };
    fs::create_dir_all(&folder)?;
    let lines: Vec<String> = skipped.iter().map(|one| format!("{one}\n")).collect();
    fs::write(
        folder.join(format!("{run}-{}", std::process::id())),
        lines.concat(),
    )
}

/// Everything that test programs of this run skipped before, in the order of their ids. Removes the records of this run, and those of
/// runs that are over.
///
/// # Errors
/// What reading the folder met; a folder that was never made is empty.
pub fn of_this_run() -> io::Result<Vec<Skipped>> {
    let Some((folder, run)) = place() else {
        return Ok(Vec::new());
    };
    collect(&folder, run)
}

fn collect(folder: &Path, run: u32) -> io::Result<Vec<Skipped>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut skipped = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.split('-').next()?.parse().ok());
        let of_this_run = owner == Some(run);
        if of_this_run {
            let text = fs::read_to_string(entry.path())?;
            skipped.extend(text.lines().filter_map(Skipped::parse));
        }
        if of_this_run || !owner.is_some_and(is_alive) {
            fs::remove_file(entry.path())?;
        }
    }
    skipped.sort();
    Ok(skipped)
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The folder, and the process that runs the test programs.
fn place() -> Option<(PathBuf, u32)> {
    // <target>/<profile>/deps/<program>
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?.parent()?.join("skipped");
    let parent = rustix::process::getppid()?.as_raw_nonzero().get();
    Some((folder, parent.cast_unsigned()))
}

/// The closing lines of a whole run.
#[must_use]
pub fn closing_lines(skipped: &[Skipped]) -> String {
    summary(skipped, "in this run")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(id: &str, test: &str) -> Skipped {
        Skipped {
            id: id.to_owned(),
            reason: format!("no {id} here"),
            test: test.to_owned(),
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let bird = one("bird", "cluster::peering");
        assert_eq!(Skipped::parse(&bird.to_string()), Some(bird));
        assert_eq!(Skipped::parse("skipped: bird"), None);
        assert_eq!(Skipped::parse("skip\tbird\ta\tb"), None);
    }

    #[test]
    fn only_records_of_this_run_are_counted_and_those_of_ended_runs_go() {
        let folder = std::env::temp_dir().join(format!("harness-record-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, one: &Skipped| {
            fs::write(folder.join(name), format!("{one}\n")).unwrap();
        };
        // Beyond the largest pid, so that nobody has it.
        let (run, ended) = (std::process::id(), 4_194_305);
        write(&format!("{run}-7"), &one("uml", "b"));
        write(&format!("{run}-8"), &one("bird", "a"));
        write(&format!("{ended}-7"), &one("frr", "c"));
        write("1-7", &one("exabgp", "d"));
        let found = collect(&folder, run).unwrap();
        assert_eq!(found, [one("bird", "a"), one("uml", "b")]);
        let left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["1-7"], "another run that still goes on");
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(collect(&folder, run).unwrap(), []);
    }

    #[test]
    fn the_summary_counts_by_id_and_says_why() {
        let skipped = [one("bird", "a"), one("bird", "b"), one("uml", "c")];
        assert_eq!(
            summary(&skipped, "here"),
            "skipped here: 3 (2 bird, 1 uml)\n    bird: no bird here\n    uml: no uml here\n"
        );
        assert_eq!(summary(&[], "here"), "skipped here: none\n");
    }
}
