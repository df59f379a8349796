//! What we put into an OPEN to one peer, and what its answer makes of the session (RFC 4271 §6.2, RFC 5492).

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::AddPaths;
use crate::types::{AfiSafi, Asn, Role, RouterId};
use crate::wire::attr::AsnWidth;
use crate::wire::capability::{
    AddPathFamily, Capability, GracefulFamily, GracefulRestart, NextHopFamily,
};
use crate::wire::family::Family;
use crate::wire::notification::Notification;
use crate::wire::open::Open;
use crate::wire::update::encode::MessageLimit;
use crate::wire::update::{FirstAsCheck, PeerKind, ReceiveContext};

/// Our side of the OPEN exchange with one peer.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// AS presented to the peer.
    pub(crate) asn: Asn,
    pub(crate) router_id: RouterId,
    pub(crate) hold_time: Duration,
    /// Between KEEPALIVEs, if that is less than a third of the Hold Time.
    pub(crate) keepalive_time: Option<Duration>,
    pub(crate) families: BTreeSet<AfiSafi>,
    /// `None` when graceful restart is not offered.
    pub(crate) restart: Option<OwnRestart>,
    pub(crate) add_paths: AddPaths,
    /// IPv6 next hops of IPv4 prefixes are taken and sent (RFC 8950).
    pub(crate) ipv6_next_hops: bool,
    /// AS the peer must have.
    pub(crate) peer_asn: Asn,
    pub(crate) first_as: FirstAsCheck,
    /// What we are to a peer of another AS, and whether it must say what it is to us (RFC 9234).
    pub(crate) role: Option<Role>,
    pub(crate) strict_role: bool,
    /// The peer knows no optional parameters (RFC 5492 §3): an OPEN without capabilities, and none of the peer's counts.
    pub(crate) plain: bool,
}

/// Graceful restart as we tell it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnRestart {
    pub(crate) time: Duration,
    /// R bit.
    pub(crate) restarting: bool,
    /// F bit of every family.
    pub(crate) forwarding: bool,
    /// N bit (RFC 8538 §2).
    pub(crate) notification: bool,
}

/// What an accepted OPEN exchange agreed on.
#[derive(Clone, Debug)]
pub(crate) struct Agreement {
    pub(crate) router_id: RouterId,
    /// AS presented to the peer.
    pub(crate) local_asn: Asn,
    pub(crate) kind: PeerKind,
    /// Zero: no keepalives, no hold timer.
    pub(crate) hold_time: Duration,
    /// Between KEEPALIVEs, before jitter.
    pub(crate) keepalive_time: Duration,
    pub(crate) families: BTreeSet<AfiSafi>,
    /// Those of them of which all paths are sent (RFC 7911).
    pub(crate) add_paths: BTreeSet<AfiSafi>,
    /// IPv4 prefixes may have IPv6 next hops, in both directions.
    pub(crate) ipv6_next_hops: bool,
    pub(crate) asn_width: AsnWidth,
    pub(crate) enhanced_refresh: bool,
    /// Longest message the peer takes.
    pub(crate) limit: MessageLimit,
    /// Both sides offered graceful restart: the peer's capability.
    pub(crate) restart: Option<GracefulRestart>,
    /// Both sides set the N bit: routes outlive NOTIFICATIONs other than a Hard Reset (RFC 8538 §4).
    pub(crate) notification_restart: bool,
    pub(crate) receive: ReceiveContext,
}

impl Offer {
    /// The OPEN to send.
    pub(crate) fn message(&self) -> Open {
        let capabilities = if self.plain {
            Vec::new()
        } else {
            self.capabilities()
        };
        Open {
            asn: self.asn,
            hold_time: self.hold_time,
            router_id: self.router_id,
            capabilities,
        }
    }

    fn capabilities(&self) -> Vec<Capability> {
        let mut capabilities: Vec<Capability> = self
            .families
            .iter()
            .map(|family| Capability::Multiprotocol((*family).into()))
            .collect();
        capabilities.push(Capability::RouteRefresh);
        if self.ipv6_next_hops {
            let entries = vec![NextHopFamily::IPV6_OF_IPV4];
            capabilities.push(Capability::ExtendedNextHop(entries));
        }
        capabilities.push(Capability::ExtendedMessage);
        if let Some(restart) = &self.restart {
            let entry = |family: &AfiSafi| GracefulFamily {
                family: Family::from(*family),
                forwarding: restart.forwarding,
            };
            capabilities.push(Capability::GracefulRestart(GracefulRestart {
                restarting: restart.restarting,
                notification: restart.notification,
                time: restart.time,
                families: self.families.iter().map(entry).collect(),
            }));
        }
        if let Some(role) = self.role.filter(|_| self.asn != self.peer_asn) {
            capabilities.push(Capability::Role(role.code()));
        }
        capabilities.push(Capability::FourOctetAs(self.asn));
        if self.add_paths != AddPaths::default() {
            let AddPaths { receive, send } = self.add_paths;
            let entry = |family: &AfiSafi| AddPathFamily {
                family: Family::from(*family),
                receive,
                send,
            };
            capabilities.push(Capability::AddPath(
                self.families.iter().map(entry).collect(),
            ));
        }
        capabilities.push(Capability::EnhancedRouteRefresh);
        capabilities
    }

    /// Judges the peer's OPEN (RFC 4271 §6.2, RFC 6286 §2.2).
    ///
    /// # Errors
    /// The NOTIFICATION that refuses it.
    pub(crate) fn agree(&self, open: &Open) -> Result<Agreement, Notification> {
        let without;
        let open = if self.plain {
            without = Open {
                capabilities: Vec::new(),
                ..open.clone()
            };
            &without
        } else {
            open
        };
        if open.asn != self.peer_asn {
            return Err(Notification::bad_peer_as());
        }
        let kind = if self.asn == self.peer_asn {
            PeerKind::Ibgp
        } else {
            PeerKind::Ebgp
        };
        if kind == PeerKind::Ibgp && open.router_id == self.router_id {
            return Err(Notification::bad_identifier());
        }
        if kind == PeerKind::Ebgp {
            self.check_role(open)?;
        }
        let families: BTreeSet<AfiSafi> = self
            .families
            .intersection(&open.families())
            .copied()
            .collect();
        if families.is_empty() {
            let mut missing = Vec::new();
            for family in &self.families {
                Capability::Multiprotocol((*family).into()).encode(&mut missing);
            }
            return Err(Notification::unsupported_capability(missing));
        }
        let asn_width = if open.has_four_octet_as() {
            AsnWidth::Four
        } else {
            AsnWidth::Two
        };
        let with = |agreed: fn(&AddPaths, &AddPathFamily) -> bool| -> BTreeSet<AfiSafi> {
            let theirs = |family: &&AfiSafi| open.add_path(**family);
            let both = families
                .iter()
                .filter(|family| theirs(family).is_some_and(|peer| agreed(&self.add_paths, &peer)));
            both.copied().collect()
        };
        let received = with(|own, peer| own.receive && peer.send);
        let sent = with(|own, peer| own.send && peer.receive);
        let ipv6_next_hops = self.ipv6_next_hops && open.has_ipv6_next_hops();
        let hold_time = self.hold_time.min(open.hold_time);
        let third = hold_time / 3;
        let restart = self.restart.and_then(|_| open.graceful_restart().cloned());
        Ok(Agreement {
            router_id: open.router_id,
            local_asn: self.asn,
            kind,
            hold_time,
            keepalive_time: self.keepalive_time.map_or(third, |time| time.min(third)),
            add_paths: sent,
            ipv6_next_hops,
            asn_width,
            enhanced_refresh: open.has_route_refresh() && open.has_enhanced_route_refresh(),
            limit: if open.has_extended_message() {
                MessageLimit::Extended
            } else {
                MessageLimit::Standard
            },
            notification_restart: self.restart.is_some_and(|own| own.notification)
                && restart.as_ref().is_some_and(|peer| peer.notification),
            restart,
            receive: ReceiveContext {
                peer: kind,
                peer_asn: self.peer_asn,
                asn_width,
                families: families.clone(),
                add_paths: received,
                ipv6_next_hops,
                first_as: self.first_as,
            },
            families,
        })
    }

    /// RFC 9234 §4.2. What is said several times must be said alike.
    fn check_role(&self, open: &Open) -> Result<(), Notification> {
        let Some(own) = self.role else {
            return Ok(());
        };
        let fits = |code| Role::from_code(code) == Some(own.counterpart());
        let missing = self.strict_role && open.roles().next().is_none();
        if missing || !open.roles().all(fits) {
            return Err(Notification::role_mismatch());
        }
        Ok(())
    }

    /// Whether a connection that we opened is the one to keep when there are two (RFC 4271 §6.8, RFC 6286 §2.3).
    pub(crate) fn keeps_own_connection(&self, peer: RouterId) -> bool {
        (self.router_id, self.asn) > (peer, self.peer_asn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_offers_refresh_restart_four_octet_numbers_and_long_messages() {
        let offer = Offer {
            asn: Asn(4_200_000_000),
            router_id: RouterId("10.0.0.1".parse().unwrap()),
            hold_time: Duration::from_secs(240),
            keepalive_time: None,
            families: [AfiSafi::Ipv4Unicast].into(),
            restart: Some(OwnRestart {
                time: Duration::from_secs(120),
                restarting: true,
                forwarding: true,
                notification: false,
            }),
            add_paths: AddPaths::default(),
            ipv6_next_hops: false,
            peer_asn: Asn(64512),
            first_as: FirstAsCheck::Off,
            role: None,
            strict_role: false,
            plain: false,
        };
        let restart = GracefulRestart {
            restarting: true,
            notification: false,
            time: Duration::from_secs(120),
            families: vec![GracefulFamily {
                family: AfiSafi::Ipv4Unicast.into(),
                forwarding: true,
            }],
        };
        assert_eq!(
            offer.message().capabilities,
            [
                Capability::Multiprotocol(AfiSafi::Ipv4Unicast.into()),
                Capability::RouteRefresh,
                Capability::ExtendedMessage,
                Capability::GracefulRestart(restart),
                Capability::FourOctetAs(Asn(4_200_000_000)),
                Capability::EnhancedRouteRefresh,
            ]
        );
    }
}
