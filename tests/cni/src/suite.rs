//! The suite's frame: who is examined, what a point is, what was found.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use lab::wait_until;
use serde_json::{Map, Value, json};

use crate::runtime::{Container, Network, Said};

/// The versions there are, oldest first.
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A plugin under examination: the first of a list.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Where it runs, and its configuration.
    pub network: Network,
    /// How many addresses its network has at most: after so many more cycles each must have come back.
    pub addresses: usize,
    /// How long something may take that the specification lets happen after the answer. Only a fault meets it.
    pub patience: Duration,
    /// Prefix of the names of devices it makes on the host.
    pub host_prefix: &'static str,
    /// Type of an IPAM plugin that records its calls in the file `ipam.record`, and gives `ipam.address` with
    /// `ipam.gateway`; `None`: the plugin delegates nothing.
    pub delegate: Option<Delegate>,
}

/// What stands for an IPAM plugin.
#[derive(Clone, Debug)]
pub struct Delegate {
    /// `ipam.type`.
    pub kind: String,
    /// The address it is to give.
    pub address: &'static str,
    /// The gateway it is to name.
    pub gateway: &'static str,
}

/// One thing that the specification asks for.
#[derive(Clone, Copy)]
pub struct Point {
    /// Section of the specification.
    pub section: &'static str,
    /// What it says.
    pub says: &'static str,
    /// The first version that asks for it.
    pub since: &'static str,
    /// Whether it holds.
    pub check: fn(&Room<'_>) -> anyhow::Result<()>,
}

/// What came of a point.
#[derive(Debug)]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It does not, and why.
    Breaks(String),
    /// The plugin offers no version that asks for it, or has nothing that it is about.
    NotApplicable,
}

/// A point and its outcome.
#[derive(Debug)]
pub struct Finding {
    /// Section of the specification.
    pub section: &'static str,
    /// What it says.
    pub says: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// Where one point is checked: containers that are cleared away afterwards.
pub struct Room<'a> {
    /// Who is examined.
    pub subject: &'a Subject,
    /// The versions that the plugin offers, oldest first.
    pub versions: &'a [&'static str],
    number: usize,
    made: RefCell<Vec<(String, Container)>>,
}

impl Room<'_> {
    /// A new container.
    ///
    /// # Errors
    /// When its namespace cannot be made.
    pub fn container(&self) -> anyhow::Result<Container> {
        let mut made = self.made.borrow_mut();
        let name = format!("point{}-{}", self.number, made.len());
        let container = Container::new(&self.subject.network.site, &name)?;
        made.push((name, container.interface("eth0")));
        Ok(container)
    }

    /// The newest version that the plugin offers.
    #[must_use]
    pub fn newest(&self) -> &'static str {
        self.versions.last().copied().unwrap_or("0.1.0")
    }

    /// The plugin's configuration in its newest version.
    #[must_use]
    pub fn configuration(&self) -> Map<String, Value> {
        self.configuration_in(self.newest())
    }

    /// The plugin's configuration in a version.
    #[must_use]
    pub fn configuration_in(&self, version: &str) -> Map<String, Value> {
        let mut object = self.subject.network.configuration(0, &Value::Null);
        object.insert("cniVersion".to_owned(), json!(version));
        object
    }

    /// The plugin's configuration with one more key.
    #[must_use]
    pub fn configuration_with(&self, key: &str, value: Value) -> Map<String, Value> {
        let mut object = self.configuration();
        object.insert(key.to_owned(), value);
        object
    }

    /// Calls the plugin.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn call(
        &self,
        command: &str,
        container: &Container,
        object: &Map<String, Value>,
    ) -> anyhow::Result<Said> {
        self.subject.network.run(command, object, container)
    }

    /// ADD in the newest version, which must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn add(&self, container: &Container) -> anyhow::Result<Value> {
        let said = self.call("ADD", container, &self.configuration())?;
        said.result().context("ADD")
    }

    /// DEL in the newest version, which must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn del(&self, container: &Container) -> anyhow::Result<()> {
        let said = self.call("DEL", container, &self.configuration())?;
        said.quiet().context("DEL")
    }

    /// Names of the devices that the plugin has made on the host.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn host_devices(&self) -> anyhow::Result<Vec<String>> {
        let links = self.subject.network.site.namespace.netlink()?.links()?;
        let names = links.into_iter().map(|link| link.name);
        Ok(names
            .filter(|name| name.starts_with(self.subject.host_prefix))
            .collect())
    }

    /// Waits until something holds; the last reason why not.
    ///
    /// # Errors
    /// When it never does.
    pub fn becomes(&self, look: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut last = None;
        wait_until(Instant::now() + self.subject.patience, || match look() {
            Ok(()) => Some(()),
            Err(error) => {
                last = Some(error);
                None
            }
        })
        .ok_or_else(|| last.unwrap_or_else(|| anyhow!("it was never looked at")))
    }

    /// Gives back what is left of the containers.
    fn clear(self) {
        for (_, container) in self.made.take() {
            for ifname in ["eth0", "net1"] {
                // Also what failed half-way goes; what fails here shows in later points.
                let _ = self.call("DEL", &container.interface(ifname), &self.configuration());
            }
            // Some points have taken it away themselves.
            let _ = container.unbind(&self.subject.network.site);
        }
    }
}

/// The versions that a plugin offers, oldest first.
fn versions(subject: &Subject) -> anyhow::Result<Vec<&'static str>> {
    let network = &subject.network;
    let kind = crate::runtime::kind_of(&network.configuration(0, &Value::Null))?;
    let said = network.call(&kind, "VERSION", [].into(), r#"{"cniVersion":"1.0.0"}"#)?;
    let offered = said.result().context("VERSION")?;
    let offers = |version: &&str| {
        let list = offered["supportedVersions"].as_array();
        list.is_some_and(|list| list.iter().any(|other| other == version))
    };
    Ok(VERSIONS.into_iter().filter(offers).collect())
}

/// Examines a plugin: each point for which `chosen` is true.
///
/// # Errors
/// When the plugin cannot even be asked for its versions.
pub fn examine(subject: &Subject, chosen: impl Fn(&Point) -> bool) -> anyhow::Result<Vec<Finding>> {
    let versions = versions(subject)?;
    let points = crate::POINTS.iter().enumerate();
    let findings = points
        .filter(|(_, point)| chosen(point))
        .map(|(number, point)| {
            let applies = versions
                .last()
                .is_some_and(|newest| place(newest) >= place(point.since))
                && (subject.delegate.is_some() || !point.section.starts_with('4'));
            let outcome = if applies {
                let made = RefCell::default();
                let versions = &versions;
                let room = Room {
                    subject,
                    versions,
                    number,
                    made,
                };
                let checked = (point.check)(&room);
                room.clear();
                match checked {
                    Ok(()) => Outcome::Holds,
                    Err(error) => Outcome::Breaks(format!("{error:#}")),
                }
            } else {
                Outcome::NotApplicable
            };
            let Point { section, says, .. } = *point;
            Finding {
                section,
                says,
                outcome,
            }
        });
    Ok(findings.collect())
}

fn place(version: &str) -> usize {
    let found = VERSIONS.iter().position(|known| *known == version);
    found.unwrap_or(VERSIONS.len())
}

/// The points that do not hold, and why.
#[must_use]
pub fn breaches(findings: &[Finding]) -> Vec<(&'static str, &str)> {
    findings
        .iter()
        .filter_map(|finding| match &finding.outcome {
            Outcome::Breaks(why) => Some((finding.says, why.as_str())),
            Outcome::Holds | Outcome::NotApplicable => None,
        })
        .collect()
}

/// The findings for people, one a line.
#[must_use]
pub fn table(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let (word, why) = match &finding.outcome {
            Outcome::Holds => ("holds ", String::new()),
            Outcome::Breaks(why) => ("BREAKS", format!(": {why}")),
            Outcome::NotApplicable => ("  -   ", String::new()),
        };
        format!("{word}  {:<24} {}{why}\n", finding.section, finding.says)
    };
    findings.iter().map(line).collect()
}
