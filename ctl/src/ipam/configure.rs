//! `ipam configure`: the rules by which addresses are given out.

use api::ipam::{IPAMConfig, IPAMConfigSpec};
use api::key::{Key, Kind};
use api::object::Object;
use api::validate::validate;

use crate::cli::IpamConfigure;
use crate::objects::{Objects, Refused};
use crate::print::outln;

pub(super) async fn configure(configure: IpamConfigure) -> anyhow::Result<()> {
    let objects = Objects::open(&configure.datastore).await?;
    let key = Key::new(Kind::IPAMConfig, "default");
    let change = |stored: Option<anyhow::Result<Object>>| {
        let mut config = match stored {
            Some(Ok(Object::IPAMConfig(config))) => config,
            // What else it says would be lost.
            Some(Err(error)) => return Err(Refused::Other(error)),
            _ => IPAMConfig::new(&key, IPAMConfigSpec::default()),
        };
        if let Some(strict) = configure.strict_affinity {
            config.spec.strict_affinity = strict;
        }
        if let Some(blocks) = configure.max_blocks_per_host {
            config.spec.max_blocks_per_host = blocks;
        }
        if let Some(seconds) = configure.ip_cooldown_seconds {
            config.spec.ip_cooldown_seconds = seconds;
        }
        let object = Object::IPAMConfig(config);
        match validate(&object).as_slice() {
            [] => Ok(object),
            faults => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                Err(Refused::Other(anyhow::anyhow!(faults.join("; "))))
            }
        }
    };
    let written = objects.write(&key, change).await;
    written.map_err(|refused| refused.error(&key))?;
    if let Some(strict) = configure.strict_affinity {
        outln!("Successfully set StrictAffinity to: {strict}");
    }
    if let Some(blocks) = configure.max_blocks_per_host {
        outln!("Successfully set MaxBlocksPerHost to: {blocks}");
    }
    if let Some(seconds) = configure.ip_cooldown_seconds {
        outln!("Successfully set IPCooldownSeconds to: {seconds}");
    }
    Ok(())
}
