//! A container runtime's part of the specification: execution configurations made from a list, calls, chains forwards and backwards.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, anyhow, bail, ensure};
use lab::{NetNs, Sandbox, Site, make_sandbox, remove_sandbox};
use serde_json::{Map, Value, json};

/// A sandbox whose network namespace exists.
#[derive(Debug)]
pub struct Container {
    /// What CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME are made from.
    pub sandbox: Sandbox,
    /// Its network namespace.
    pub namespace: NetNs,
}

impl Container {
    /// A new one on a machine. `name` must be no other's.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn new(site: &Site, name: &str) -> anyhow::Result<Self> {
        let (sandbox, namespace) = make_sandbox(site, name)?;
        Ok(Self { sandbox, namespace })
    }

    /// The same container with another interface name.
    #[must_use]
    pub fn interface(&self, ifname: &str) -> Self {
        Self {
            sandbox: Sandbox {
                ifname: ifname.to_owned(),
                ..self.sandbox.clone()
            },
            namespace: self.namespace.clone(),
        }
    }

    /// Takes the sandbox's path away; the namespace goes with its last holder.
    ///
    /// # Errors
    /// When it is not there.
    pub fn unbind(&self, site: &Site) -> anyhow::Result<()> {
        Ok(remove_sandbox(site, &self.sandbox)?)
    }

    /// The variables of a call about it.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<&'static str, String> {
        let sandbox = &self.sandbox;
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={}",
            sandbox.pod_name, sandbox.container_id
        );
        BTreeMap::from([
            ("CNI_CONTAINERID", sandbox.container_id.clone()),
            ("CNI_NETNS", sandbox.netns_path.display().to_string()),
            ("CNI_IFNAME", sandbox.ifname.clone()),
            ("CNI_ARGS", args),
        ])
    }
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// Whether the exit code was 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// The result of a call that must succeed.
    ///
    /// # Errors
    /// When it failed, or printed anything but one JSON object.
    pub fn result(&self) -> anyhow::Result<Value> {
        ensure!(self.success, "it failed: {}{}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("standard output is not one JSON object: {:?}", self.stdout))
    }

    /// A call that must succeed and print nothing.
    ///
    /// # Errors
    /// When it failed or printed something.
    pub fn quiet(&self) -> anyhow::Result<()> {
        ensure!(self.success, "it failed: {}{}", self.stdout, self.stderr);
        ensure!(
            self.stdout.trim().is_empty(),
            "it printed {:?}; expected: nothing",
            self.stdout
        );
        Ok(())
    }

    /// The error's code, of a call that must fail: an object with `cniVersion`, `code` and `msg` on standard output.
    ///
    /// # Errors
    /// When it succeeded, or the error has another shape.
    pub fn error(&self) -> anyhow::Result<u64> {
        ensure!(!self.success, "it succeeded: {}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout)
            .with_context(|| format!("the error is not one JSON object: {:?}", self.stdout))?;
        let code = error["code"].as_u64().filter(|code| *code > 0);
        let code = code.ok_or_else(|| anyhow!("the error has no code above 0: {error}"))?;
        for key in ["cniVersion", "msg"] {
            let there = error[key].as_str().is_some_and(|text| !text.is_empty());
            // What fails before the configuration is read has no version to say.
            ensure!(
                there || key == "cniVersion",
                "the error has no {key}: {error}"
            );
        }
        Ok(code)
    }

    /// The same with a given code.
    ///
    /// # Errors
    /// As [`Said::error`], and when the code is another.
    pub fn error_of(&self, code: u64) -> anyhow::Result<()> {
        let said = self.error()?;
        ensure!(
            said == code,
            "error code {said}; expected: {code}: {}",
            self.stdout
        );
        Ok(())
    }
}

/// A network on a machine, as its runtime knows it.
#[derive(Clone, Debug)]
pub struct Network {
    /// The machine.
    pub site: Site,
    /// CNI_PATH.
    pub directories: Vec<PathBuf>,
    /// The network configuration list.
    pub list: Value,
}

impl Network {
    /// The execution configuration of a plugin of the list: its object, name and version, what the runtime adds, and what its capabilities
    /// ask for of `runtime`.
    #[must_use]
    pub fn configuration(&self, index: usize, runtime: &Value) -> Map<String, Value> {
        let mut object = self.list["plugins"][index]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for key in ["name", "cniVersion"] {
            object.insert(key.to_owned(), self.list[key].clone());
        }
        let capabilities = object.remove("capabilities").unwrap_or_default();
        let mut wanted = Map::new();
        for (key, value) in runtime.as_object().into_iter().flatten() {
            if capabilities[key] == true {
                wanted.insert(key.clone(), value.clone());
            }
        }
        if !wanted.is_empty() {
            object.insert("runtimeConfig".to_owned(), Value::Object(wanted));
        }
        object
    }

    /// Runs the program that a configuration's `type` names. `variables` without CNI_COMMAND and CNI_PATH, which are added unless they are
    /// there; an empty one is left out.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be run.
    pub fn call(
        &self,
        kind: &str,
        command: &str,
        variables: BTreeMap<&'static str, String>,
        stdin: &str,
    ) -> anyhow::Result<Said> {
        let mut found = self.directories.iter().map(|folder| folder.join(kind));
        let program = found
            .find(|program| self.site.namespace.run(|| program.exists()))
            .ok_or_else(|| anyhow!("no plugin {kind} in {:?}", self.directories))?;
        let path: Vec<String> = self
            .directories
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let mut all = BTreeMap::from([
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_PATH", path.join(":")),
        ]);
        all.extend(variables);
        all.retain(|_, value| !value.is_empty());
        let mut child = self
            .site
            .namespace
            .command(program)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("running {kind}"))?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not read its input says why on its output.
            let _ = input.write_all(stdin.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Said {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn plugins(&self) -> usize {
        self.list["plugins"].as_array().map_or(0, Vec::len)
    }

    /// ADD of the whole list; the last plugin's result. `runtime` holds what capabilities may ask for.
    ///
    /// # Errors
    /// The first failure, after which a runtime calls DEL.
    pub fn add(&self, container: &Container, runtime: &Value) -> anyhow::Result<Value> {
        let mut result = Value::Null;
        for index in 0..self.plugins() {
            let mut object = self.configuration(index, runtime);
            if !result.is_null() {
                object.insert("prevResult".to_owned(), result);
            }
            result = self
                .run("ADD", &object, container)?
                .result()
                .with_context(|| format!("ADD of {}", object["type"]))?;
        }
        Ok(result)
    }

    /// CHECK of the whole list with ADD's result.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(
        &self,
        container: &Container,
        runtime: &Value,
        result: &Value,
    ) -> anyhow::Result<()> {
        for index in 0..self.plugins() {
            let mut object = self.configuration(index, runtime);
            object.insert("prevResult".to_owned(), result.clone());
            self.run("CHECK", &object, container)?
                .quiet()
                .with_context(|| format!("CHECK of {}", object["type"]))?;
        }
        Ok(())
    }

    /// DEL of the whole list, last plugin first; with ADD's result where the runtime has it.
    ///
    /// # Errors
    /// The first failure.
    pub fn del(
        &self,
        container: &Container,
        runtime: &Value,
        result: Option<&Value>,
    ) -> anyhow::Result<()> {
        for index in (0..self.plugins()).rev() {
            let mut object = self.configuration(index, runtime);
            if let Some(result) = result {
                object.insert("prevResult".to_owned(), result.clone());
            }
            self.run("DEL", &object, container)?
                .quiet()
                .with_context(|| format!("DEL of {}", object["type"]))?;
        }
        Ok(())
    }

    /// GC of the whole list.
    ///
    /// # Errors
    /// What the plugins report.
    pub fn collect(&self, valid: &[&Container]) -> anyhow::Result<()> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|container| {
                let sandbox = &container.sandbox;
                json!({"containerID": sandbox.container_id, "ifname": sandbox.ifname})
            })
            .collect();
        for index in 0..self.plugins() {
            let mut object = self.configuration(index, &Value::Null);
            object.insert("cni.dev/valid-attachments".to_owned(), json!(valid));
            let kind = kind_of(&object)?;
            let stdin = Value::Object(object).to_string();
            self.call(&kind, "GC", BTreeMap::new(), &stdin)?.quiet()?;
        }
        Ok(())
    }

    /// One call of the plugin that a configuration names.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(
        &self,
        command: &str,
        object: &Map<String, Value>,
        container: &Container,
    ) -> anyhow::Result<Said> {
        let kind = kind_of(object)?;
        let stdin = Value::Object(object.clone()).to_string();
        self.call(&kind, command, container.variables(), &stdin)
    }
}

/// `type` of a configuration.
pub(crate) fn kind_of(object: &Map<String, Value>) -> anyhow::Result<String> {
    match object.get("type").and_then(Value::as_str) {
        Some(kind) => Ok(kind.to_owned()),
        None => bail!("a plugin's configuration has no type: {object:?}"),
    }
}
