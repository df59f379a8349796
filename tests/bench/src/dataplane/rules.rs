//! NAT-outgoing of many pools: the table that the graph makes of them.

use api::key::{Key, Kind};
use api::object::Object;
use felix::calc::{Graph, Settings};
use felix::desired::{Row, RowKey};
use felix::rules::Family;
use ipnet::Ipv4Net;
use serde_json::json;

use crate::random::Random;

/// Pools.
pub(super) const POOLS: u32 = 1000;

/// A graph in sync that knows the pools.
pub(super) struct Pools {
    graph: Graph,
    random: Random,
}

impl Pools {
    pub(super) fn new(seed: u64) -> anyhow::Result<Self> {
        let mut graph = Graph::new(Settings::new("n1"));
        for kind in Graph::KINDS {
            graph.handle_in_sync(kind);
        }
        graph.handle_kernel_in_sync();
        let random = Random(seed);
        let mut pools = Self { graph, random };
        for number in 0..POOLS {
            pools.put(number)?;
        }
        Ok(pools)
    }

    /// Gives a pool another range. Neighbours do not touch, so that the set does not merge them.
    fn put(&mut self, number: u32) -> anyhow::Result<()> {
        let first = u32::from(std::net::Ipv4Addr::new(11, 0, 0, 0));
        let addr = first + number * 4096 + 64 * self.random.below(63);
        let cidr = Ipv4Net::new(addr.into(), 26)?;
        let key = Key::new(Kind::IPPool, format!("pool{number}"));
        let object = json!({
            "metadata": {"name": key.name}, "spec": {"cidr": cidr, "natOutgoing": true},
        });
        let object = Object::decode(&key, object.to_string().as_bytes())?;
        self.graph.handle_update(&key, Some(&object));
        Ok(())
    }

    /// Each pool gets another range.
    pub(super) fn change(&mut self) -> anyhow::Result<()> {
        (0..POOLS).try_for_each(|number| self.put(number))
    }

    /// The table as it is wanted now.
    pub(super) fn table(&mut self) -> Option<Row> {
        self.graph.flush();
        let rows = std::iter::from_fn(|| self.graph.poll_desired());
        rows.filter(|(key, _)| *key == RowKey::Rules(Family::V4))
            .find_map(|(_, row)| row)
    }
}
