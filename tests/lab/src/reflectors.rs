//! Route reflectors: machines of the first rack that run `tortie-rr`, and the resources that put them in the mesh's place.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Child;

use crate::cluster::{Lab, LabError, spawn_logged, still_runs};
use crate::enter::BASE;
use crate::kube::REFLECTORS_KUBECONFIG;
use crate::topology::Site;

/// Last octet of the address of the first one; those below are the router's and the nodes' begin at 11.
const FIRST_HOST: u8 = 2;
/// One cluster: none passes on what another has told it.
const CLUSTER_ID: &str = "1.0.0.1";

/// A machine that reflects routes.
#[derive(Debug)]
pub struct Reflector {
    /// `rr1`, `rr2`, …
    pub site: Site,
    /// `None` after it was killed.
    program: Option<Child>,
}

impl Reflector {
    /// Whether its program was not killed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.program.is_some()
    }

    /// An error when its program has ended by itself.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        self.program.as_mut().map_or(Ok(()), still_runs)
    }
}

impl Lab {
    /// Attaches the reflectors, writes their resources to the store, and starts their programs.
    pub(crate) fn start_reflectors(&mut self) -> Result<(), LabError> {
        if self.options.reflectors == 0 {
            return Ok(());
        }
        let sites = (1..=self.options.reflectors)
            .map(|number| {
                let host = FIRST_HOST + number - 1;
                self.topology.attach(&format!("rr{number}"), host, 1)
            })
            .collect::<io::Result<Vec<Site>>>()
            .map_err(LabError::system("attach the reflectors"))?;
        let manifest = Path::new(BASE).join("reflectors.yaml");
        let mut resources = PEERINGS.to_owned();
        match self.store.kube() {
            Some(kube) => kube.register_reflectors(&sites, CLUSTER_ID)?,
            None => resources.push_str(&nodes(&sites)),
        }
        fs::write(&manifest, resources)
            .map_err(LabError::system("write the reflectors' resources"))?;
        self.apply(&manifest)?;
        for site in sites {
            let program = Some(self.spawn_reflector(&site)?);
            self.reflectors.push(Reflector { site, program });
        }
        Ok(())
    }

    fn spawn_reflector(&self, site: &Site) -> Result<Child, LabError> {
        let mut command = self.command_of(site, self.programs().reflector());
        if self.store.kube().is_some() {
            command.env("KUBECONFIG", REFLECTORS_KUBECONFIG);
        }
        spawn_logged(command, &site.name)
    }

    /// Kills a reflector with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it was gone before.
    pub fn kill_reflector(&mut self, index: usize) -> io::Result<()> {
        let program = self.reflectors[index].program.take();
        let mut program = program.ok_or_else(|| io::Error::other("was killed before"))?;
        program.kill()?;
        program.wait().map(drop)
    }

    /// Starts a reflector again, after [`Lab::kill_reflector`].
    ///
    /// # Errors
    /// See [`LabError`].
    pub fn restart_reflector(&mut self, index: usize) -> Result<(), LabError> {
        let program = self.spawn_reflector(&self.reflectors[index].site)?;
        self.reflectors[index].program = Some(program);
        Ok(())
    }
}

/// Calico's recipe: no mesh, everybody else with the reflectors, the reflectors with each other.
const PEERINGS: &str = "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: clients}
spec: {nodeSelector: '!has(route-reflector)', peerSelector: has(route-reflector)}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: reflectors}
spec: {nodeSelector: has(route-reflector), peerSelector: has(route-reflector)}
";

/// What makes them reflectors.
fn nodes(sites: &[Site]) -> String {
    let mut text = String::new();
    for site in sites {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: {}, labels: {{route-reflector: \"true\"}}}}
spec:
  bgp:
    routeReflectorClusterID: {CLUSTER_ID}
",
            site.name
        );
        if let Some(net) = site.net4() {
            let _ = writeln!(text, "    ipv4Address: {net}");
        }
        if let Some(net) = site.net6() {
            let _ = writeln!(text, "    ipv6Address: {net}");
        }
    }
    text
}
