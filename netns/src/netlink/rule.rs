//! Policy rules: which table is asked for which packets.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::{Ignore, Netlink, NetlinkError, Request};

/// An IPv4 rule that sends the search to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Rules are asked from the lowest number up.
    pub priority: u32,
    /// Only packets with this mark, under this mask.
    pub mark: Option<(u32, u32)>,
    /// The table to ask.
    pub table: u32,
    /// Who made it; the kernel's own rules say 2.
    pub protocol: u8,
}

impl Netlink {
    /// Adds a rule; it is no error if it is there already.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = Request {
            what: format!("add the rule {}", rule.priority),
            message: RouteNetlinkMessage::NewRule(message(rule)),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        };
        self.one(request).ignore(&[Errno::EEXIST])
    }

    /// Deletes a rule; it is no error if it is gone already.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), NetlinkError> {
        let request = Request {
            what: format!("delete the rule {}", rule.priority),
            message: RouteNetlinkMessage::DelRule(message(rule)),
            flags: 0,
        };
        self.one(request).ignore(&[Errno::ENOENT])
    }

    /// All IPv4 rules that send to a table, in the order in which they are asked.
    pub fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet;
        let answers = self.dump("list the rules", RouteNetlinkMessage::GetRule(request))?;
        Ok(answers.iter().filter_map(parse).collect())
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
    if let Some((mark, mask)) = rule.mark {
        message.attributes.push(RuleAttribute::FwMark(mark));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
    message
}

fn parse(message: &RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = Rule { priority: 0, mark: None, table: u32::from(message.header.table), protocol: 0 };
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask.unwrap_or(u32::MAX)));
    Some(rule)
}
