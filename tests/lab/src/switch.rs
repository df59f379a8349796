//! A pool's mode switched under living pods, the nodes seconds apart.

use std::time::Duration;

use crate::cluster::Lab;
use crate::options::Mode;

/// How long after the others the last node hears of the switch.
const LATE_BY: Duration = Duration::from_millis(1500);

impl Lab {
    /// Switches the pools of both families to a mode, and waits until every kernel has it. The node `late` hears of it last.
    ///
    /// # Errors
    /// In words: what failed, or how kernels differ from what the mode asks for.
    pub fn switch_mode(&mut self, mode: Mode, late: usize) -> Result<(), String> {
        let what = |error: &dyn std::error::Error| error.to_string();
        self.freeze_agent(late).map_err(|error| what(&error))?;
        let (ipip, vxlan) = (mode.ipip(), mode.vxlan());
        let v4 = format!(r#"{{"spec":{{"ipipMode":"{ipip}","vxlanMode":"{vxlan}"}}}}"#);
        let v6 = format!(r#"{{"spec":{{"vxlanMode":"{vxlan}"}}}}"#);
        if self.options.families.has_v4() {
            self.patch_as_operator("ippool", "default-ipv4-ippool", &v4)?;
        }
        if self.options.families.has_v6() {
            self.patch_as_operator("ippool", "default-ipv6-ippool", &v6)?;
        }
        self.options.pods_mode.get_or_insert(self.options.mode);
        self.options.mode = mode;
        // Nothing tells that a node has not yet done something: this is how long it is away.
        std::thread::sleep(LATE_BY);
        self.thaw_agent(late).map_err(|error| what(&error))?;
        self.converge()
    }

    /// Has `tortiectl` on the first machine change an object.
    pub(crate) fn patch_as_operator(
        &self,
        kind: &str,
        name: &str,
        patch: &str,
    ) -> Result<(), String> {
        let site = &self.topology.sites[0];
        let output = (site.namespace.command(self.programs().ctl()))
            .envs(self.options.environment_of(site))
            .args(["patch", kind, name, "-p", patch])
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    }
}
