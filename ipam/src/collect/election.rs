//! Who looks at the cluster: whoever wrote the annotation last, as long as it is renewed.

use std::time::Duration;

use api::key::{Key, Kind};
use api::object::Object;
use datastore::store::{Expect, Op, StoreError};

use super::looks::{LookError, Looks};
use crate::time::Timestamp;

/// Annotation of ClusterInformation: `<node> <RFC 3339 time>`: who looks, and since when at least.
pub const ANNOTATION: &str = "networking.tortie.dev/ipam-collector";

/// A term, in graces: one look may be missed.
const TERM: u32 = 2;

impl Looks {
    /// Whether this agent looks at the cluster now; renews its term.
    pub async fn is_elected(&self, now: Timestamp) -> Result<bool, LookError> {
        let key = Key::new(Kind::ClusterInformation, "default");
        let (store, node) = (self.ipam().store(), self.ipam().node());
        let Some(stands) = store.get(&key).await? else {
            return Ok(false);
        };
        let Ok(Object::ClusterInformation(mut info)) = Object::decode(&key, &stands.value) else {
            return Err(LookError::Unreadable(key));
        };
        let annotations = &mut info.metadata.annotations;
        let term = self.grace() * TERM;
        if annotations
            .get(ANNOTATION)
            .is_some_and(|text| is_others(text, node, now, term))
        {
            return Ok(false);
        }
        let text = format!("{node} {}", now.rfc3339());
        annotations.insert(ANNOTATION.to_owned(), text);
        let put = Op::Put {
            key,
            value: Object::ClusterInformation(info).encode().into(),
            expect: Expect::Version(stands.version),
        };
        match store.write(put).await {
            Ok(_) => Ok(true),
            // Somebody was quicker, or changed something else: the next look tells.
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether another node's term lasts.
fn is_others(text: &str, node: &str, now: Timestamp, term: Duration) -> bool {
    let Some((holder, renewed)) = text.split_once(' ') else {
        return false;
    };
    let renewed = Timestamp::parse_rfc3339(renewed);
    holder != node && renewed.is_some_and(|renewed| now.since(renewed) < term)
}
