//! Writing objects that others may write at the same time.

use api::bgp::{BGPConfiguration, BGPConfigurationSpec};
use api::felix::{FelixConfiguration, FelixConfigurationSpec};
use api::ipam::{IPAMConfig, IPAMConfigSpec};
use api::key::{Key, Kind};
use api::object::Object;
use datastore::store::{Expect, Op, Store, StoreError};

/// How often a write is tried anew when somebody else was quicker.
const ATTEMPTS: usize = 10;

/// What exists in every cluster.
pub fn defaults() -> [Object; 3] {
    let named = |kind| Key::new(kind, "default");
    let bgp = BGPConfiguration::new(
        &named(Kind::BGPConfiguration),
        BGPConfigurationSpec::default(),
    );
    let ipam = IPAMConfig::new(&named(Kind::IPAMConfig), IPAMConfigSpec::default());
    let text = |text: &str| serde_json::Value::from(text);
    let felix = FelixConfigurationSpec {
        node_selector: None,
        fields: [
            ("logSeverityScreen".to_owned(), text("Info")),
            ("reportingInterval".to_owned(), text("0s")),
        ]
        .into_iter()
        .collect(),
    };
    let felix = FelixConfiguration::new(&named(Kind::FelixConfiguration), felix);
    [
        Object::FelixConfiguration(felix),
        Object::BGPConfiguration(bgp),
        Object::IPAMConfig(ipam),
    ]
}

/// Writes an object unless one of its name exists. Answers whether it was written.
pub async fn create(store: &dyn Store, object: Object) -> Result<bool, StoreError> {
    let put = Op::Put {
        key: object.key(),
        value: object.encode().into(),
        expect: Expect::Absent,
    };
    match store.write(put).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Replaces an object that exists by what `change` makes of it, if it makes something. Answers whether it was written.
pub async fn change(
    store: &dyn Store,
    key: &Key,
    mut change: impl FnMut(Object) -> Option<Object>,
) -> Result<bool, StoreError> {
    rewrite(store, key, |stored| change(stored?)).await
}

/// Replaces an object by what `change` makes of the stored one; nothing is written when that is equal. Answers whether
/// it was written. `change` gets `None` for an object that does not exist or cannot be read.
pub async fn update(
    store: &dyn Store,
    key: &Key,
    change: impl Fn(Option<Object>) -> Object,
) -> Result<bool, StoreError> {
    rewrite(store, key, |stored| Some(change(stored))).await
}

async fn rewrite(
    store: &dyn Store,
    key: &Key,
    mut change: impl FnMut(Option<Object>) -> Option<Object>,
) -> Result<bool, StoreError> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let stored = store.get(key).await?;
        let before = stored
            .as_ref()
            .and_then(|stored| Object::decode(key, &stored.value).ok());
        let after = match change(before.clone()) {
            Some(after) if before.as_ref() != Some(&after) => after,
            Some(_) | None => return Ok(false),
        };
        let put = Op::Put {
            key: key.clone(),
            value: after.encode().into(),
            expect: Expect::standing(stored.map(|stored| stored.version)),
        };
        match store.write(put).await {
            Ok(_) => return Ok(true),
            Err(conflict @ StoreError::Conflict { .. }) => last = Some(conflict),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("every attempt but a conflict returns"))
}
