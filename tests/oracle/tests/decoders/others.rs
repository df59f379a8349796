//! The other decoders, each made to say what ours says.

use std::collections::BTreeSet;

use bgp::wire::attr::AsnWidth;
use bgpkit_parser::models::{AsnLength, MetaCommunity};
use bgpkit_parser::parser::bgp::messages::parse_bgp_update_message;
use bytes::Bytes;
use ipnet::IpNet;
use netgauze_bgp_pkt::path_attribute::{
    AsPath, AsPathSegmentType, MpReach, MpUnreach, PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use routecore::bgp::message::UpdateMessage;
use routecore::bgp::message::update::SessionConfig;
use routecore::bgp::nlri::afisafi::{IsPrefix, Nlri};

use crate::Said;

/// A decoder that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Other {
    Bgpkit,
    NetGauze,
    Routecore,
}

impl Other {
    pub(crate) const ALL: [Self; 3] = [Self::Bgpkit, Self::NetGauze, Self::Routecore];

    /// Reads the body of an UPDATE.
    pub(crate) fn read(self, body: &Bytes, width: AsnWidth) -> Result<Said, String> {
        match self {
            Self::Bgpkit => bgpkit(body, width),
            Self::NetGauze => netgauze(body, width),
            Self::Routecore => routecore(body, width),
        }
    }
}

fn bgpkit(body: &Bytes, width: AsnWidth) -> Result<Said, String> {
    let length = match width {
        AsnWidth::Two => AsnLength::Bits16,
        AsnWidth::Four => AsnLength::Bits32,
    };
    let update = parse_bgp_update_message(body.clone(), false, &length)
        .map_err(|error| error.to_string())?;
    let attributes = &update.attributes;
    let nets = |all: &[bgpkit_parser::models::NetworkPrefix]| -> Vec<IpNet> {
        all.iter().map(|net| net.prefix.trunc()).collect()
    };
    let mut announced = nets(&update.announced_prefixes);
    announced.extend(
        attributes
            .get_reachable_nlri()
            .iter()
            .flat_map(|nlri| nets(&nlri.prefixes)),
    );
    let mut withdrawn = nets(&update.withdrawn_prefixes);
    withdrawn.extend(
        attributes
            .get_unreachable_nlri()
            .iter()
            .flat_map(|nlri| nets(&nlri.prefixes)),
    );
    let shown = |community: MetaCommunity| match community {
        MetaCommunity::Plain(plain) => Some(match plain.to_string().as_str() {
            "no-export" => "65535:65281".to_owned(),
            "no-advertise" => "65535:65282".to_owned(),
            "no-export-sub-confed" => "65535:65283".to_owned(),
            other => other.to_owned(),
        }),
        MetaCommunity::Large(large) => Some(large.to_string()),
        MetaCommunity::Extended(_) | MetaCommunity::Ipv6Extended(_) => None,
    };
    Ok(Said {
        announced: announced.into_iter().collect(),
        withdrawn: withdrawn.into_iter().collect(),
        as_path: attributes
            .effective_as_path()
            .map(|path| path.to_string())
            .unwrap_or_default(),
        origin: attributes.origin() as u8,
        med: attributes.multi_exit_discriminator(),
        local_pref: attributes.local_preference(),
        communities: attributes.iter_communities().filter_map(shown).collect(),
    })
}

/// A path as ours is shown: sequences plain, sets in braces.
fn path(segments: impl IntoIterator<Item = (bool, Vec<u32>)>) -> String {
    let shown = segments.into_iter().map(|(is_set, asns)| {
        let asns: Vec<String> = asns.iter().map(ToString::to_string).collect();
        match is_set {
            true => format!("{{{}}}", asns.join(",")),
            false => asns.join(" "),
        }
    });
    let shown: Vec<String> = shown.filter(|segment| !segment.is_empty()).collect();
    shown.join(" ")
}

fn netgauze(body: &Bytes, width: AsnWidth) -> Result<Said, String> {
    let mut context = BgpParsingContext::asn2_default();
    context.set_asn4(width == AsnWidth::Four);
    let update = BgpUpdateMessage::parse(&mut SliceReader::new(body), &mut context)
        .map_err(|error| format!("{error:?}"))?;
    let v4 = |all: &[netgauze_bgp_pkt::nlri::Ipv4UnicastAddress]| -> Vec<IpNet> {
        all.iter()
            .map(|net| IpNet::V4(net.network().address()).trunc())
            .collect()
    };
    let v6 = |all: &[netgauze_bgp_pkt::nlri::Ipv6UnicastAddress]| -> Vec<IpNet> {
        all.iter()
            .map(|net| IpNet::V6(net.network().address()).trunc())
            .collect()
    };
    let mut said = Said::default();
    said.announced.extend(v4(update.nlri()));
    said.withdrawn.extend(v4(update.withdraw_routes()));
    for attribute in update.path_attributes() {
        match attribute.value() {
            PathAttributeValue::Origin(origin) => said.origin = *origin as u8,
            PathAttributeValue::AsPath(AsPath::As2PathSegments(segments)) => {
                said.as_path = path(segments.iter().map(|segment| {
                    let asns = segment.as_numbers().iter().map(|asn| u32::from(*asn));
                    let is_set = segment.segment_type() == AsPathSegmentType::AsSet;
                    (is_set, asns.collect())
                }));
            }
            PathAttributeValue::AsPath(AsPath::As4PathSegments(segments)) => {
                said.as_path = path(segments.iter().map(|segment| {
                    let is_set = segment.segment_type() == AsPathSegmentType::AsSet;
                    (is_set, segment.as_numbers().to_vec())
                }));
            }
            PathAttributeValue::MultiExitDiscriminator(med) => said.med = Some(med.metric()),
            PathAttributeValue::LocalPreference(local) => said.local_pref = Some(local.metric()),
            PathAttributeValue::Communities(all) => {
                let shown = |c: &netgauze_bgp_pkt::community::Community| {
                    format!("{}:{}", c.collection_asn(), c.collection_value())
                };
                said.communities.extend(all.communities().iter().map(shown));
            }
            PathAttributeValue::LargeCommunities(all) => {
                let shown = |c: &netgauze_bgp_pkt::community::LargeCommunity| {
                    format!(
                        "{}:{}:{}",
                        c.global_admin(),
                        c.local_data1(),
                        c.local_data2()
                    )
                };
                said.communities.extend(all.communities().iter().map(shown));
            }
            PathAttributeValue::MpReach(MpReach::Ipv4Unicast { nlri, .. }) => {
                said.announced.extend(v4(nlri));
            }
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, .. }) => {
                said.announced.extend(v6(nlri));
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv4Unicast { nlri }) => {
                said.withdrawn.extend(v4(nlri));
            }
            PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => {
                said.withdrawn.extend(v6(nlri));
            }
            _ => {}
        }
    }
    Ok(said)
}

fn routecore(body: &Bytes, width: AsnWidth) -> Result<Said, String> {
    let config = match width {
        AsnWidth::Two => SessionConfig::legacy(),
        AsnWidth::Four => SessionConfig::modern(),
    };
    let length = u16::try_from(body.len() + 19).map_err(|error| error.to_string())?;
    let mut octets = vec![0xff; 16];
    octets.extend(length.to_be_bytes());
    octets.push(2);
    octets.extend_from_slice(body);
    read_routecore(&octets, &config).map_err(|error| error.to_string())
}

fn read_routecore(
    octets: &[u8],
    config: &SessionConfig,
) -> Result<Said, routecore::bgp::ParseError> {
    let update = UpdateMessage::from_octets(octets, config)?;
    let nets = |all: Vec<Nlri<_>>| -> BTreeSet<IpNet> {
        let net = |nlri: &Nlri<_>| {
            let prefix = match nlri {
                Nlri::Ipv4Unicast(net) => net.prefix(),
                Nlri::Ipv6Unicast(net) => net.prefix(),
                _ => return None,
            };
            IpNet::new(prefix.addr(), prefix.len())
                .ok()
                .map(|net| net.trunc())
        };
        all.iter().filter_map(net).collect()
    };
    let mut communities = BTreeSet::new();
    if let Some(all) = update.communities()? {
        for community in all {
            let number = community.to_u32();
            communities.insert(format!("{}:{}", number >> 16, number & 0xffff));
        }
    }
    if let Some(all) = update.large_communities()? {
        for community in all {
            let (global, one, two) = (community.global(), community.local1(), community.local2());
            communities.insert(format!("{global}:{one}:{two}"));
        }
    }
    let segments = update.aspath()?.map(|path| -> Vec<(bool, Vec<u32>)> {
        path.segments()
            .map(|segment| {
                let asns = segment.asns().map(|asn| asn.into_u32()).collect();
                // Its kind is told in its text only: `AS_SET(1, 2)`.
                (segment.to_string().starts_with("AS_SET"), asns)
            })
            .collect()
    });
    Ok(Said {
        announced: nets(update.announcements_vec()?),
        withdrawn: nets(update.withdrawals_vec()?),
        as_path: path(segments.unwrap_or_default()),
        origin: update.origin()?.map_or(0, |origin| origin.into()),
        med: update.multi_exit_disc()?.map(|med| med.0),
        local_pref: update.local_pref()?.map(|local| local.0),
        communities,
    })
}
