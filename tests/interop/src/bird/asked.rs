//! BIRD as one of several daemons.

use std::io;
use std::net::IpAddr;
use std::process::Child;

use ipnet::IpNet;

use super::{Bird, BirdRoute, Start, Version};
use crate::daemon::{Daemon, Seen, Unseen, numbers};

impl Bird {
    fn session_with(&self, ours: IpAddr) -> Result<&str, String> {
        let name = self.sessions.get(&ours);
        name.map(String::as_str)
            .ok_or_else(|| format!("the plan has no session with {ours}"))
    }

    fn table_of(&self, prefix: IpNet) -> &'static str {
        match (self.version, prefix) {
            (Version::One, _) => "master",
            (Version::Two, IpNet::V4(_)) => "master4",
            (Version::Two, IpNet::V6(_)) => "master6",
        }
    }
}

impl Daemon for Bird {
    fn paths(&self, prefix: IpNet) -> Result<Vec<Seen>, Unseen> {
        let routes = self.routes_of(self.table_of(prefix));
        let learned = |route: &&BirdRoute| {
            route.prefix == prefix && self.sessions.values().any(|name| *name == route.protocol)
        };
        let mut of_prefix: Vec<&BirdRoute> = routes.iter().filter(learned).collect();
        of_prefix.sort_by_key(|route| !route.best);
        if of_prefix.is_empty() {
            return Err(Unseen::Absent(format!("{routes:#?}")));
        }
        Ok(of_prefix.into_iter().map(from_route).collect())
    }

    fn established(&self, ours: IpAddr) -> Result<(), String> {
        match self.session(self.session_with(ours)?).as_str() {
            "Established" => Ok(()),
            other => Err(other.to_owned()),
        }
    }

    fn heard(&self, ours: IpAddr) -> Result<u64, String> {
        let said = self.describe(self.session_with(ours)?);
        let counts = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Import updates:"))
            .filter_map(|line| numbers(line).first().copied());
        Ok(counts.map(u64::from).sum())
    }

    fn ask_refresh(&self, ours: IpAddr) -> Result<(), String> {
        let command = format!("reload in {}", self.session_with(ours)?);
        self.ask(&command)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn shut_down(&self, ours: IpAddr, text: &str) -> Result<(), String> {
        let command = format!("disable {} \"{text}\"", self.session_with(ours)?);
        self.ask(&command)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn reset(&self, ours: IpAddr) -> Result<(), String> {
        let command = format!("restart {}", self.session_with(ours)?);
        self.ask(&command)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn restart(&mut self) -> io::Result<()> {
        Self::restart(self, Start::Recover)
    }

    fn said(&self) -> String {
        format!("{}\n{}", self.describe(""), self.log())
    }
}

fn from_route(route: &BirdRoute) -> Seen {
    let number = |name: &str| numbers(route.attribute(name)).first().copied();
    let groups = |name: &str| -> Vec<String> {
        let inside = route.attribute(name).split(['(', ')']).map(str::trim);
        inside
            .filter(|group| !group.is_empty())
            .map(|group| group.replace([',', ' '], ":").replace("::", ":"))
            .collect()
    };
    Seen {
        // What is on the wire; the route's own is what it resolved to.
        next_hop: route
            .attribute("next_hop")
            .split_whitespace()
            .next()
            .and_then(|address| address.parse().ok()),
        as_path: numbers(route.attribute("as_path")),
        origin: route.attribute("origin").to_owned(),
        med: number("med"),
        local_pref: number("local_pref"),
        communities: ["community", "large_community", "ext_community"]
            .into_iter()
            .flat_map(groups)
            .collect(),
        originator: route.attribute("originator_id").parse().ok(),
        clusters: route
            .attribute("cluster_list")
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .collect(),
        only_to_customers: number("otc"),
        stale: false,
    }
}
