//! GoBGP: started with a configuration of the test's, asked through `gobgp`.

use std::fmt::{self, Write};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Child;

use bgp::types::AfiSafi;
use ipnet::IpNet;
use lab::NetNs;
use serde_json::Value;

use crate::daemon::{Daemon, Seen, Unseen};
use crate::eventually;
use crate::plan::{Announced, Graceful, Neighbour, Plan};
use crate::process::{self, Process};

/// A running gobgpd. It is killed when dropped.
#[derive(Debug)]
pub struct GoBgp {
    namespace: NetNs,
    process: Process,
    /// Given through the API, so that they must be given again after a restart.
    routes: Vec<Announced>,
}

impl GoBgp {
    /// Whether gobgpd and gobgp are installed.
    #[must_use]
    pub fn is_there() -> bool {
        process::find(&["gobgpd"]).is_some() && process::find(&["gobgp"]).is_some()
    }

    /// Starts it in `namespace` with a configuration in TOML and waits until it answers. Only one fits into a namespace.
    ///
    /// # Errors
    /// When its files cannot be written or the program not be started.
    ///
    /// # Panics
    /// When it is not installed, or does not answer in time: with its log.
    pub fn start(namespace: &NetNs, config: &str) -> io::Result<Self> {
        let directory = Process::directory("gobgp", config)?;
        let mut gobgp = Self {
            namespace: namespace.clone(),
            process: spawn(namespace, &directory, &[])?,
            routes: Vec::new(),
        };
        gobgp.wait_ready();
        Ok(gobgp)
    }

    pub(crate) fn start_plan(namespace: &NetNs, plan: &Plan) -> io::Result<Self> {
        let mut gobgp = Self::start(namespace, &config(plan).expect("a String takes everything"))?;
        gobgp.routes.clone_from(&plan.routes);
        gobgp.add_routes();
        Ok(gobgp)
    }

    fn wait_ready(&mut self) {
        eventually("gobgpd answers", || {
            self.process.check()?;
            self.ask("global").map(drop)
        });
    }

    fn add_routes(&self) {
        for route in &self.routes {
            let words = added(route).expect("a String takes everything");
            self.ask(&words)
                .unwrap_or_else(|error| panic!("gobgp {words}: {error}"));
        }
    }

    /// What `gobgp` prints for these words.
    ///
    /// # Errors
    /// Its words.
    pub fn ask(&self, words: &str) -> Result<String, String> {
        let program = process::find(&["gobgp"]).ok_or("gobgp is not installed")?;
        process::output(
            self.namespace
                .command(program)
                .args(words.split_whitespace()),
        )
    }
}

impl Daemon for GoBgp {
    fn paths(&self, prefix: IpNet) -> Result<Vec<Seen>, Unseen> {
        let family = if prefix.addr().is_ipv4() {
            "ipv4"
        } else {
            "ipv6"
        };
        let text = self.ask(&format!("global rib -a {family} -j"))?;
        let table: Value = serde_json::from_str(&text).unwrap_or_default();
        let paths = table[prefix.to_string()]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let learned = |path: &&Value| {
            let from = path["neighbor-ip"].as_str().unwrap_or_default();
            from.parse::<IpAddr>()
                .is_ok_and(|address| !address.is_unspecified())
        };
        let learned: Vec<Seen> = paths.iter().filter(learned).map(from_path).collect();
        if learned.is_empty() {
            return Err(Unseen::Absent(text));
        }
        Ok(learned)
    }

    fn established(&self, ours: IpAddr) -> Result<(), String> {
        let text = self.ask(&format!("neighbor {ours}"))?;
        match text.contains("BGP state = ESTABLISHED") {
            true => Ok(()),
            false => Err(text),
        }
    }

    fn heard(&self, ours: IpAddr) -> Result<u64, String> {
        let text = self.ask(&format!("neighbor {ours} -j"))?;
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        let count = &said["state"]["messages"]["received"]["update"];
        count
            .as_u64()
            .or_else(|| count.as_str()?.parse().ok())
            .ok_or(text)
    }

    fn ask_refresh(&self, ours: IpAddr) -> Result<(), String> {
        self.ask(&format!("neighbor {ours} softresetin")).map(drop)
    }

    fn shut_down(&self, ours: IpAddr, text: &str) -> Result<(), String> {
        let program = process::find(&["gobgp"]).ok_or("gobgp is not installed")?;
        let ours = ours.to_string();
        process::output(
            self.namespace
                .command(program)
                .args(["neighbor", &ours, "shutdown", "--reason", text]),
        )
        .map(drop)
    }

    fn reset(&self, ours: IpAddr) -> Result<(), String> {
        self.ask(&format!("neighbor {ours} reset")).map(drop)
    }

    fn child(&mut self) -> &mut Child {
        self.process.child()
    }

    fn restart(&mut self) -> io::Result<()> {
        let directory = self.process.directory_path().to_owned();
        // Its routes come through its API: they must be there before a session is, or its End-of-RIB comes without them.
        let mut netlink = self.namespace.netlink()?;
        netlink.set_down("eth0").map_err(io::Error::other)?;
        self.process = spawn(&self.namespace, &directory, &["-r"])?;
        self.wait_ready();
        self.add_routes();
        netlink.set_up("eth0").map_err(io::Error::other)
    }

    fn said(&self) -> String {
        let neighbours = self.ask("neighbor").unwrap_or_else(|error| error);
        format!("{neighbours}\n{}", self.process.log())
    }
}

fn spawn(namespace: &NetNs, directory: &Path, flags: &[&str]) -> io::Result<Process> {
    let program = process::find(&["gobgpd"]).expect("the caller asked whether GoBGP is there");
    let mut command = namespace.command(program);
    command.arg("-f").arg(directory.join("conf")).args(flags);
    Process::spawn(command, directory.to_owned())
}

fn config(plan: &Plan) -> Result<String, fmt::Error> {
    let mut text = format!(
        "[global.config]\nas = {}\nrouter-id = \"{}\"\n",
        plan.asn, plan.router_id
    );
    for neighbour in &plan.neighbours {
        session(&mut text, neighbour)?;
    }
    Ok(text)
}

fn session(text: &mut String, neighbour: &Neighbour) -> fmt::Result {
    let Neighbour {
        address,
        asn,
        local,
        hold_time,
        ..
    } = neighbour;
    writeln!(
        text,
        "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}"
    )?;
    if let Some(key) = neighbour.key {
        writeln!(text, "auth-password = \"{key}\"")?;
    }
    writeln!(
        text,
        "[neighbors.transport.config]\nlocal-address = \"{local}\""
    )?;
    writeln!(
        text,
        "[neighbors.timers.config]\nconnect-retry = 1\nidle-hold-time-after-reset = 1\nhold-time = {hold_time}\n\
         keepalive-interval = {}",
        hold_time / 3
    )?;
    if neighbour.ttl_security {
        text.push_str("[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n");
    }
    if neighbour.client {
        text.push_str("[neighbors.route-reflector.config]\nroute-reflector-client = true\n");
    }
    let graceful = neighbour.graceful != Graceful::Off;
    if graceful {
        let over = neighbour.graceful == Graceful::OverNotifications;
        writeln!(
            text,
            "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 60\nnotification-enabled = {over}"
        )?;
    }
    assert!(
        neighbour.four_octet,
        "gobgpd always offers four-octet numbers"
    );
    for family in &neighbour.families {
        let word = match family {
            AfiSafi::Ipv4Unicast => "ipv4-unicast",
            AfiSafi::Ipv6Unicast => "ipv6-unicast",
        };
        writeln!(
            text,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{word}\""
        )?;
        if neighbour.add_paths {
            text.push_str("[neighbors.afi-safis.add-paths.config]\nreceive = true\nsend-max = 8\n");
        }
        if graceful {
            text.push_str("[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n");
        }
    }
    Ok(())
}

fn added(route: &Announced) -> Result<String, fmt::Error> {
    let family = if route.prefix.addr().is_ipv4() {
        "ipv4"
    } else {
        "ipv6"
    };
    let mut words = format!("global rib -a {family} add {} origin igp", route.prefix);
    if let Some(next_hop) = route.next_hop {
        write!(words, " nexthop {next_hop}")?;
    }
    if let Some(med) = route.med {
        write!(words, " med {med}")?;
    }
    let joined = |all: Vec<String>| all.join(",");
    if !route.communities.is_empty() {
        let all = route
            .communities
            .iter()
            .map(|(high, low)| format!("{high}:{low}"));
        write!(words, " community {}", joined(all.collect()))?;
    }
    if !route.large.is_empty() {
        let all = route
            .large
            .iter()
            .map(|(global, one, two)| format!("{global}:{one}:{two}"));
        write!(words, " large-community {}", joined(all.collect()))?;
    }
    for (asn, value) in &route.targets {
        write!(words, " rt {asn}:{value}")?;
    }
    if let Some(asn) = route.behind {
        write!(words, " aspath {asn}")?;
    }
    Ok(words)
}

fn from_path(path: &Value) -> Seen {
    let attributes = path["attrs"].as_array().cloned().unwrap_or_default();
    let attribute = |code: u64| {
        let found = attributes
            .iter()
            .find(|attribute| attribute["type"] == code);
        found.cloned().unwrap_or_default()
    };
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let plain = list(&attribute(8)["communities"]);
    let plain = plain
        .iter()
        .filter_map(number)
        .map(|community| format!("{}:{}", community >> 16, community & 0xffff));
    let large = list(&attribute(32)["value"]);
    let large = large.iter().map(|community| {
        let part = |name: &str| number(&community[name]).unwrap_or_default();
        format!(
            "{}:{}:{}",
            part("ASN"),
            part("LocalData1"),
            part("LocalData2")
        )
    });
    let extended = list(&attribute(16)["value"]);
    let extended = extended
        .iter()
        .filter(|community| community["subtype"] == 2)
        .map(|community| format!("rt:{}", community["value"].as_str().unwrap_or_default()));
    let next_hop = match &attribute(3)["nexthop"] {
        Value::Null => attribute(14)["nexthop"].clone(),
        next_hop => next_hop.clone(),
    };
    let segments = list(&attribute(2)["as_paths"]);
    Seen {
        next_hop: next_hop.as_str().and_then(|address| address.parse().ok()),
        as_path: segments
            .iter()
            .flat_map(|segment| list(&segment["asns"]))
            .filter_map(|asn| number(&asn))
            .collect(),
        origin: match attribute(1)["value"].as_u64() {
            Some(0) => "IGP",
            Some(1) => "EGP",
            Some(_) => "Incomplete",
            None => "",
        }
        .to_owned(),
        med: number(&attribute(4)["metric"]),
        local_pref: number(&attribute(5)["value"]),
        communities: plain.chain(large).chain(extended).collect(),
        originator: attribute(9)["value"]
            .as_str()
            .and_then(|id| id.parse().ok()),
        clusters: list(&attribute(10)["value"])
            .iter()
            .filter_map(|id| id.as_str()?.parse::<Ipv4Addr>().ok())
            .collect(),
        only_to_customers: None,
        stale: path["stale"] == true,
    }
}
