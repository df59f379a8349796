//! Settings from the environment and from FelixConfigurations: the parameter table and its reader.
//!
//! A setting exists once, as a row of [`TABLE`]: its names, default, unit, allowed values and documentation. Everything
//! else, the typed fields of [`Params`] included, comes from there.

mod file;
mod notices;
mod table;
mod unused;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

use crate::felix::{Given, NEXT_START};
use crate::pool::EncapMode;
pub use table::{TABLE, Values};
pub use unused::{UNUSED, Unused};
pub use value::{
    AddressSource, Backend, DatastoreType, EndpointToHostAction, LogSeverity,
    NatOutgoingExclusions, PoolCidr, ProgramClusterRoutes, RouterIdSource, ServiceLoopPrevention,
};

/// All settings, with where they come from. The fields are those of [`Values`].
#[derive(Clone, Debug)]
pub struct Params {
    /// The variables of the environment that are known here.
    environment: Vec<(String, String)>,
    /// Settings of the configuration file.
    file: Vec<Given>,
    /// Settings of FelixConfigurations.
    given: Vec<Given>,
    values: Values,
    settings: Vec<Setting>,
    rejected: Vec<ParamError>,
    notices: Vec<Notice>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The field of [`Values`].
    pub field: &'static str,
    /// Environment variables, the first one set counts.
    pub names: &'static [&'static str],
    /// Text that means the same as leaving it out.
    pub default: &'static str,
    /// Unit of a bare number; empty when there is none.
    pub unit: &'static str,
    /// What may be given, in words.
    pub allowed: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// What the empty text means.
    pub empty: EmptyText,
    /// What a value that is not allowed leads to.
    pub invalid: Invalid,
}

/// What the empty text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyText {
    /// The same as leaving the variable out.
    IsUnset,
    /// A value like any other.
    IsValue,
}

/// What a value that is not allowed leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The node does not start.
    Stops,
    /// The default is taken and the error logged: what Felix does with its own variables.
    TakesDefault,
    /// It counts as `true`, which is logged.
    MeansTrue,
    /// It counts as `false`, which is logged.
    MeansFalse,
}

/// One setting as it is shown to an operator.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The row.
    pub row: &'static Row,
    /// The text in force.
    pub text: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// This environment variable.
    Environment(String),
    /// This line of a file.
    File(String),
    /// This field of an object in the datastore.
    Datastore(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::File(place) | Self::Datastore(place) => f.write_str(place),
        }
    }
}

/// A value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamError {
    /// Variable as it was given.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// What is wrong, when that is more than not being allowed; else empty.
    pub reason: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.variable, self.value)?;
        if self.reason.is_empty() {
            write!(f, " is not allowed")?;
        } else {
            write!(f, ": {}", self.reason)?;
        }
        write!(f, "; allowed: {}", self.allowed)
    }
}

impl std::error::Error for ParamError {}

/// Something an operator should know about a variable that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Variable.
    pub variable: String,
    /// Its value.
    pub value: String,
    /// What is done with it.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}: {}", self.variable, self.value, self.message)
    }
}

impl Params {
    /// Reads the variables of an environment; those not in the table are none of our business, unless they begin with
    /// `FELIX_`, which makes a notice. The error holds everything that stops the node, not only the first.
    pub fn from_env(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Vec<ParamError>> {
        Self::from_sources(variables, &[])
    }

    /// Reads the variables of an environment and, for those that are not set, what FelixConfigurations give
    /// ([`given_to`](crate::felix::given_to)). See [`Self::from_env`].
    pub fn from_sources(
        variables: impl IntoIterator<Item = (String, String)>,
        given: &[Given],
    ) -> Result<Self, Vec<ParamError>> {
        let environment: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| notices::is_calicos(&known_as(name)))
            .collect();
        Self::from_all(environment, Vec::new(), given.to_vec())
    }

    fn from_all(
        environment: Vec<(String, String)>,
        file: Vec<Given>,
        given: Vec<Given>,
    ) -> Result<Self, Vec<ParamError>> {
        let mut reader = Reader::new(environment.iter().cloned());
        reader.add(&file, Origin::File);
        reader.add(&given, Origin::Datastore);
        let mut values = reader.read_table();
        if reader.origin("datastore_type") == Some(&Origin::Default) && values.store.is_some() {
            values.datastore_type = DatastoreType::Local;
            reader.show("datastore_type", "local", "store");
        }
        if !values.networking {
            values.backend = Backend::None;
            reader.show("backend", "none", "networking");
        }
        reader.check_together(&values);
        reader.notice_unused(&values);
        if reader.errors.is_empty() {
            Ok(Self {
                environment,
                file,
                given,
                values,
                settings: reader.settings,
                rejected: reader.rejected,
                notices: reader.notices,
            })
        } else {
            Err(reader.errors)
        }
    }

    /// The same environment with what FelixConfigurations give now.
    #[must_use]
    pub fn with(&self, given: &[Given]) -> Self {
        self.again(self.file.clone(), given.to_vec())
    }

    /// As [`with`](Self::with), but settings that count from the start only
    /// ([`NEXT_START`](crate::felix::NEXT_START)) stay as they are.
    #[must_use]
    pub fn with_live(&self, given: &[Given]) -> Self {
        let live = |given: &&Given| !NEXT_START.contains(&given.variable);
        let of_the_start = self.given.iter().filter(|given| !live(given));
        let given = given.iter().filter(live).chain(of_the_start);
        self.again(self.file.clone(), given.cloned().collect())
    }

    /// The same environment with what a configuration file gives (`/etc/calico/felix.cfg`): an INI file whose sections do not
    /// matter. It counts before FelixConfigurations and after the environment.
    #[must_use]
    pub fn with_file(&self, path: &str, text: &str) -> Self {
        let (settings, notices) = file::read(path, text);
        let mut with = self.again(settings, self.given.clone());
        with.notices.extend(notices);
        with
    }

    fn again(&self, file: Vec<Given>, given: Vec<Given>) -> Self {
        Self::from_all(self.environment.clone(), file, given).expect(
            "the environment was read before, and in place of a wrong setting the default is taken",
        )
    }

    /// Every setting in the table's order.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Values in whose stead the default is used.
    pub fn rejected(&self) -> &[ParamError] {
        &self.rejected
    }

    /// What else an operator should know.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The node's name: `NODENAME`, else `file` (content of the nodename file), else `HOSTNAME`, else the kernel's name;
    /// the latter two in lower case. `None` when all are empty.
    pub fn node_name(&self, file: Option<&str>, kernel_hostname: &str) -> Option<String> {
        let given = self.values.nodename.clone();
        let from_file = || file.map(|name| name.trim().to_owned());
        let from_host = || {
            self.values
                .hostname
                .as_ref()
                .map(|name| name.to_lowercase())
        };
        let from_kernel = || Some(kernel_hostname.trim().to_lowercase());
        let filled = |name: &String| !name.is_empty();
        given
            .or_else(|| from_file().filter(filled))
            .or_else(|| from_host().filter(filled))
            .or_else(|| from_kernel().filter(filled))
    }
}

/// A variable's name as the table has it: `FELIX_` and what follows in upper case.
fn known_as(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper.starts_with("FELIX_") {
        upper
    } else {
        name.to_owned()
    }
}

/// The router id made from a node's name: the first four bytes of its SHA-256, kept out of the multicast range.
pub fn router_id_of_name(node: &str) -> Ipv4Addr {
    let digest = Sha256::digest(node.as_bytes());
    let first = if digest[0] > 223 {
        digest[0] - 32
    } else {
        digest[0]
    };
    Ipv4Addr::new(first, digest[1], digest[2], digest[3])
}

/// Goes through the table once.
struct Reader {
    /// Variables by the name the table knows them by; `FELIX_` names are in upper case.
    variables: BTreeMap<String, Variable>,
    settings: Vec<Setting>,
    errors: Vec<ParamError>,
    rejected: Vec<ParamError>,
    notices: Vec<Notice>,
}

struct Variable {
    /// The name as it was given, or the place in the datastore.
    name: String,
    text: String,
    origin: fn(String) -> Origin,
}

impl Reader {
    fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            variables: variables
                .into_iter()
                .map(|(name, text)| {
                    let origin = Origin::Environment;
                    (known_as(&name), Variable { name, text, origin })
                })
                .collect(),
            settings: Vec::with_capacity(TABLE.len()),
            errors: Vec::new(),
            rejected: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// Settings of a file or of objects, the strongest first, where nothing stronger says something.
    fn add(&mut self, given: &[Given], origin: fn(String) -> Origin) {
        for given in given {
            let before = self.variables.get(given.variable);
            if before.is_none_or(|before| before.text.trim().is_empty()) {
                let variable = Variable {
                    name: given.place.clone(),
                    text: given.text.clone(),
                    origin,
                };
                self.variables.insert(given.variable.to_owned(), variable);
            }
        }
    }

    fn read<T>(&mut self, row: &'static Row, read: impl Fn(&str) -> Result<T, String>) -> T {
        let default = || read(row.default).expect("the defaults of the table are allowed: tested");
        let given = row
            .names
            .iter()
            .filter_map(|name| self.variables.get(*name))
            .find(|variable| row.empty == EmptyText::IsValue || !variable.text.trim().is_empty());
        let mut setting = Setting {
            row,
            text: row.default.to_owned(),
            origin: Origin::Default,
        };
        let value = match given {
            None => default(),
            Some(variable) => match read(variable.text.trim()) {
                Ok(value) => {
                    setting.text = variable.text.trim().to_owned();
                    setting.origin = (variable.origin)(variable.name.clone());
                    value
                }
                Err(reason) => {
                    let error = ParamError {
                        variable: variable.name.clone(),
                        value: variable.text.clone(),
                        reason,
                        allowed: row.allowed.to_owned(),
                    };
                    let word = match row.invalid {
                        Invalid::Stops => {
                            self.errors.push(error);
                            row.default
                        }
                        Invalid::TakesDefault => {
                            self.rejected.push(error);
                            row.default
                        }
                        Invalid::MeansTrue => "true",
                        Invalid::MeansFalse => "false",
                    };
                    if matches!(row.invalid, Invalid::MeansTrue | Invalid::MeansFalse) {
                        word.clone_into(&mut setting.text);
                        setting.origin = (variable.origin)(variable.name.clone());
                        self.notices.push(Notice {
                            variable: variable.name.clone(),
                            value: variable.text.clone(),
                            message: format!("means `{word}`; allowed: {}", row.allowed),
                        });
                    }
                    read(word).expect("the table's own words are allowed: tested")
                }
            },
        };
        self.settings.push(setting);
        value
    }

    fn setting(&self, field: &str) -> Option<&Setting> {
        self.settings
            .iter()
            .find(|setting| setting.row.field == field)
    }

    /// Shows a field with the text that follows from another field, and with that one's origin.
    fn show(&mut self, field: &str, text: &str, because_of: &str) {
        let origin = self.origin(because_of).cloned();
        let mut settings = self.settings.iter_mut();
        if let (Some(origin), Some(setting)) =
            (origin, settings.find(|setting| setting.row.field == field))
        {
            text.clone_into(&mut setting.text);
            setting.origin = origin;
        }
    }

    fn origin(&self, field: &str) -> Option<&Origin> {
        self.setting(field).map(|setting| &setting.origin)
    }

    /// Rules that bind several variables.
    fn check_together(&mut self, values: &Values) {
        if values.pool_ipip != EncapMode::Never && values.pool_vxlan != EncapMode::Never {
            self.refuse(
                "pool_vxlan",
                format!(
                    "a pool cannot have both tunnels, and CALICO_IPV4POOL_IPIP is {:?}",
                    values.pool_ipip
                ),
                "one of CALICO_IPV4POOL_IPIP and CALICO_IPV4POOL_VXLAN other than `Never`",
            );
        }
        for field in ["pool_cidr", "pool6_cidr"] {
            let given = matches!(self.origin(field), Some(Origin::Environment(_)));
            if values.no_default_pools && given {
                let (variable, _) = self.as_given(field);
                self.refuse(
                    field,
                    "NO_DEFAULT_POOLS is `true`, so no pool would be made of it".to_owned(),
                    &format!("one of {variable} and NO_DEFAULT_POOLS=true"),
                );
            }
        }
        for (cidr, field, len, smallest, bits) in [
            (
                values.pool_cidr,
                "pool_block_size",
                values.pool_block_size,
                20,
                32,
            ),
            (
                values.pool6_cidr,
                "pool6_block_size",
                values.pool6_block_size,
                116,
                128,
            ),
        ] {
            if let PoolCidr::Cidr(cidr) = cidr
                && len < cidr.prefix_len()
            {
                self.refuse(
                    field,
                    format!("a block would be larger than the pool {cidr}"),
                    &format!("{} to {bits}", cidr.prefix_len().max(smallest)),
                );
            }
        }
        match (&values.k8s_cert_file, &values.k8s_key_file) {
            (Some(_), None) => self.refuse(
                "k8s_cert_file",
                "a certificate is of no use without its key".to_owned(),
                "K8S_CERT_FILE and K8S_KEY_FILE together",
            ),
            (None, Some(_)) => self.refuse(
                "k8s_key_file",
                "a key is of no use without its certificate".to_owned(),
                "K8S_CERT_FILE and K8S_KEY_FILE together",
            ),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if values.datastore_type == DatastoreType::Local && values.store.is_none() {
            self.refuse(
                "datastore_type",
                "the embedded store is reached through TORTIE_STORE, which is not set".to_owned(),
                "TORTIE_STORE=unix:/var/run/calico/tortie-store.sock or the like beside it",
            );
        }
    }

    fn refuse(&mut self, field: &str, reason: String, allowed: &str) {
        let (variable, value) = self.as_given(field);
        self.errors.push(ParamError {
            variable,
            value,
            reason,
            allowed: allowed.to_owned(),
        });
    }

    /// The variable a field was set by, or would be, and its text.
    fn as_given(&self, field: &str) -> (String, String) {
        match self.setting(field) {
            Some(setting) => match &setting.origin {
                Origin::Environment(name) | Origin::File(name) | Origin::Datastore(name) => {
                    (name.clone(), setting.text.clone())
                }
                Origin::Default => (setting.row.names[0].to_owned(), setting.text.clone()),
            },
            None => (field.to_owned(), String::new()),
        }
    }
}

#[cfg(test)]
mod tests;
