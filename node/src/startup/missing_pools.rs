//! The default pools, where the cluster has none of their family.

use api::key::Kind;
use api::object::Object;
use api::params::PoolCidr;
use api::pool::IPPool;
use datastore::scope::Scope;
use tracing::{info, warn};

use super::address::Family;
use super::cluster_facts::{ClusterFacts, PodRanges};
use super::{Startup, StartupError, objects, pool};

impl Startup<'_> {
    /// The default pools that do not exist and are wanted.
    pub(super) async fn missing_pools(
        &self,
        cluster: &ClusterFacts,
    ) -> Result<Vec<IPPool>, StartupError> {
        let (pools, unreadable) = self.pools().await?;
        if unreadable > 0 {
            // A pool that cannot be read is a pool all the same: none must be made beside it.
            return Ok(Vec::new());
        }
        let lacks = |family| {
            !pools
                .iter()
                .any(|pool| Family::of(pool.spec.cidr.addr()) == family)
        };
        let chooses = (lacks(Family::V4) && self.params.pool_cidr == PoolCidr::Choose)
            || (lacks(Family::V6) && self.params.pool6_cidr == PoolCidr::Choose);
        let ranges = if chooses && !self.params.no_default_pools {
            self.pod_ranges(&cluster.ranges).await?
        } else {
            cluster.ranges.clone()
        };
        let mut missing = Vec::new();
        for family in [Family::V4, Family::V6] {
            missing.extend(self.wanted_pool(family, &pools, &ranges, cluster.random)?);
        }
        Ok(missing)
    }

    /// The pools, and how many more cannot be read.
    async fn pools(&self) -> Result<(Vec<IPPool>, usize), StartupError> {
        let listing = self
            .store
            .list(Kind::IPPool, &Scope::All)
            .await
            .map_err(self.failed("listing the pools"))?;
        let mut pools = Vec::new();
        let mut unreadable = 0;
        for item in &listing.items {
            match Object::decode(&item.key, &item.value) {
                Ok(Object::IPPool(pool)) => pools.push(pool),
                Ok(_) => {}
                Err(error) => {
                    warn!(%error, "pool is not valid; no default pool is made");
                    unreadable += 1;
                }
            }
        }
        Ok((pools, unreadable))
    }

    /// The default pool of a family, when no pool of the family exists.
    fn wanted_pool(
        &self,
        family: Family,
        pools: &[IPPool],
        ranges: &PodRanges,
        random: [u8; 5],
    ) -> Result<Option<IPPool>, StartupError> {
        let known = pool::Known {
            values: self.params,
            host: self.host,
            cluster: &ranges.cluster,
            random,
        };
        let Some(wanted) = pool::default_pool(&known, family) else {
            return Ok(None);
        };
        let given = match family {
            Family::V4 => self.params.pool_cidr,
            Family::V6 => self.params.pool6_cidr,
        };
        let variable = pool::variable(family);
        let asked = matches!(given, PoolCidr::Cidr(_));
        let existing: Vec<String> = pools
            .iter()
            .filter(|pool| Family::of(pool.spec.cidr.addr()) == family)
            .map(|pool| format!("{} {}", pool.metadata.name, pool.spec.cidr))
            .collect();
        if existing.is_empty() {
            if asked {
                pool::check_host_addresses(wanted.spec.cidr, self.host)?;
            } else {
                let cluster = ranges.of(family);
                pool::check_known(family, cluster, &ranges.nodes)?;
                if let Some(cidr) = cluster {
                    info!(%cidr, source = ranges.source, "the default pool has the cluster's pod range");
                }
            }
            return Ok(Some(wanted));
        }
        let same = pools.iter().any(|pool| pool.spec.cidr == wanted.spec.cidr);
        if asked && !same {
            warn!(
                cidr = %wanted.spec.cidr,
                pools = existing.join(", "),
                "{variable} is ignored: pools of this family exist"
            );
        }
        Ok(None)
    }

    pub(super) async fn create_pool(&self, pool: IPPool) -> Result<(), StartupError> {
        let (name, cidr) = (pool.metadata.name.clone(), pool.spec.cidr);
        let made = objects::create(&*self.store, Object::IPPool(pool))
            .await
            .map_err(self.failed("creating the default pool"))?;
        if made {
            info!(pool = name, %cidr, "default pool created");
        }
        Ok(())
    }
}
