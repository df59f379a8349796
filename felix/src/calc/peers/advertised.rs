//! Communities of what is announced: `prefixAdvertisements` of BGPConfiguration.
//!
//! The list of `node.<name>`, if it has any entry, takes the place of the whole list of `default`, for both families. Names are
//! looked up in the object that uses them. Every entry whose range holds a route adds its communities; a filter that accepts a
//! route ends the matter before.

use api::bgp::{BGPConfigurationSpec, PrefixAdvertisement};
use api::bgp_filter::CommunityValue;
use api::key::{Key, Kind};
use bgp::policy::{Edit, Match, PrefixRange, Term, Verdict};

use super::super::problem::{Problem, Reason};
use super::filter::add_community;
use super::{Inputs, problem};

const FIELD: &str = "spec.prefixAdvertisements";

impl Inputs<'_> {
    /// The terms that add communities; what names no community is left out and told.
    pub(super) fn advertised(&self, problems: &mut Vec<Problem>) -> Vec<Term> {
        let of_node = format!("node.{}", self.settings.node_name);
        let names = [of_node.as_str(), "default"];
        let found = names.into_iter().find_map(|name| {
            let config = self.configs.get(name)?;
            (!config.prefix_advertisements.is_empty()).then_some((name, config))
        });
        let Some((name, config)) = found else {
            return Vec::new();
        };
        let key = Key::new(Kind::BGPConfiguration, name);
        let term = |entry: &PrefixAdvertisement| {
            let edits = edits(config, entry, |why| {
                problems.push(problem(&key, FIELD, Reason::Invalid(why.into())));
            });
            let range = entry.cidr.trunc();
            (!edits.is_empty()).then(|| Term {
                name: format!("communities of {range}").into(),
                matches: vec![Match::Prefix(vec![PrefixRange::or_longer(range)])],
                edits,
                verdict: Verdict::Continue,
            })
        };
        config
            .prefix_advertisements
            .iter()
            .filter_map(term)
            .collect()
    }
}

fn edits(
    config: &BGPConfigurationSpec,
    entry: &PrefixAdvertisement,
    mut tell: impl FnMut(String),
) -> Vec<Edit> {
    let mut edits = Vec::new();
    for text in &entry.communities {
        let named = config.communities.iter().find(|named| named.name == *text);
        let value = named.map_or(text, |named| &named.value);
        match CommunityValue::parse(value) {
            Some(value) => edits.push(add_community(value)),
            None => tell(format!(
                "{}: {text:?} is no name of spec.communities of the same object, nor `aa:nn` or `aa:nn:mm`; routes go without it",
                entry.cidr
            )),
        }
    }
    edits
}
