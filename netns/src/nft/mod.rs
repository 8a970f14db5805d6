//! nftables over netlink: what `nft` would do, without it.
//!
//! All changes go to the kernel as batches; a batch is applied as a whole or not at all, and no packet ever meets half
//! of one. Messages come from `netlink-packet-netfilter`; [`expr`] adds the expressions that it does not know.

mod conntrack;
pub(crate) mod expr;
mod publish;
mod ruleset;

pub(crate) use conntrack::forget_backend;
pub(crate) use publish::publish;
pub(crate) use ruleset::{Layout, install, remembered_forwarding, remove, set_hairpin};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Expressions, Hook, InetHookNumber, ListAttribute,
    NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementFlags,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, none::ControlMessage,
};

use crate::namespace::Namespace;
use crate::netlink::{Channel, NetlinkError};

/// The one table that is ours, of family `ip`.
pub(crate) const TABLE: &str = "skep";
/// `NFNL_SUBSYS_NFTABLES`, the subsystem that a batch is for.
const SUBSYSTEM: u16 = 10;
/// Elements in one message: their attribute's length is 16 bits, and an element takes up to 48 bytes.
const ELEMENTS_IN_MESSAGE: usize = 1000;

/// A netfilter handle of one namespace.
#[derive(Debug)]
pub(crate) struct Nftables {
    channel: Channel,
}

impl Nftables {
    pub(crate) fn new_in(namespace: &Namespace) -> Result<Self, NetlinkError> {
        let channel = Channel::open(namespace, netlink_sys::protocols::NETLINK_NETFILTER)?;
        channel.widen()?;
        Ok(Self { channel })
    }

    pub(crate) fn commit(&mut self, what: &str, batch: Batch) -> Result<(), NetlinkError> {
        let control = |message| {
            NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM), message)
        };
        let mut messages = vec![(control(ControlMessage::BatchBegin), 0)];
        messages.extend(batch.messages);
        messages.push((control(ControlMessage::BatchEnd), 0));
        self.channel.batch(what, messages)
    }

    /// The user data of our table; `None` if there is no such table.
    pub(crate) fn table_data(&mut self) -> Result<Option<Vec<u8>>, NetlinkError> {
        let message = TableMessage { attributes: vec![] };
        let list = self.channel.dump("list the nftables tables", ip(NfTablesMessage::GetTable(message)))?;
        Ok(list.into_iter().find_map(|message| {
            let netlink_packet_netfilter::NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) =
                message.inner
            else {
                return None;
            };
            let ours =
                table.attributes.iter().any(|a| matches!(a, TableAttribute::Name(name) if name == TABLE));
            let data = table.attributes.into_iter().find_map(|attribute| match attribute {
                TableAttribute::UserData(data) => Some(data),
                _ => None,
            });
            ours.then(|| data.unwrap_or_default())
        }))
    }
}

fn ip(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), message)
}

/// A set that lives and dies with the rule that uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnonymousSet {
    id: u32,
}

impl AnonymousSet {
    const NAME: &'static str = "__skep%d";
}

/// What a base chain hangs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseChain {
    pub(crate) kind: &'static str,
    pub(crate) hook: InetHookNumber,
    pub(crate) priority: i32,
}

/// A transaction being written.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    messages: Vec<(NetfilterMessage, u16)>,
    sets: u32,
}

impl Batch {
    fn push(&mut self, message: NfTablesMessage, flags: u16) {
        self.messages.push((ip(message), flags));
    }

    /// Makes the table; keeps it (and its user data) if it is there.
    pub(crate) fn table(&mut self, user_data: Vec<u8>) {
        let attributes = vec![TableAttribute::Name(TABLE.to_owned()), TableAttribute::UserData(user_data)];
        self.push(NfTablesMessage::NewTable(TableMessage { attributes }), NLM_F_CREATE);
    }

    pub(crate) fn delete_table(&mut self) {
        let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
        self.push(NfTablesMessage::DeleteTable(TableMessage { attributes }), 0);
    }

    /// Makes a chain; keeps it, with its rules, if it is there.
    pub(crate) fn chain(&mut self, name: &str, base: Option<BaseChain>) {
        let mut attributes =
            vec![ChainAttribute::Table(TABLE.to_owned()), ChainAttribute::Name(name.to_owned())];
        if let Some(base) = base {
            attributes.push(ChainAttribute::Type(base.kind.to_owned()));
            attributes.push(ChainAttribute::Hook(vec![
                Hook::Number(base.hook.into()),
                Hook::Priority(base.priority.cast_unsigned()),
            ]));
        }
        self.push(NfTablesMessage::NewChain(ChainMessage { attributes }), NLM_F_CREATE);
    }

    /// Deletes all rules of a chain, which must exist.
    pub(crate) fn flush(&mut self, chain: &str) {
        let attributes = vec![RuleAttribute::Table(TABLE.to_owned()), RuleAttribute::Chain(chain.to_owned())];
        self.push(NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0);
    }

    /// Appends a rule to a chain.
    pub(crate) fn rule(&mut self, chain: &str, parts: &[&[Expressions]]) {
        let expressions =
            parts.iter().flat_map(|part| part.iter()).cloned().map(ListAttribute::from).collect();
        let attributes = vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ];
        self.push(NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND);
    }

    /// A set of address ranges, each from the first address to the one after the last (none: to the end).
    pub(crate) fn ranges(&mut self, ranges: &[([u8; 4], Option<[u8; 4]>)]) -> AnonymousSet {
        let set = self.anonymous(SetFlags::Interval, (expr::TYPE_IPV4, 4));
        let elements = ranges
            .iter()
            .flat_map(|(start, end)| {
                let start = vec![key(start)];
                let end =
                    end.map(|end| vec![key(&end), SetElementAttribute::Flags(SetElementFlags::IntervalEnd)]);
                std::iter::once(start).chain(end)
            })
            .collect();
        self.elements(AnonymousSet::NAME, Some(set.id), elements);
        set
    }

    fn anonymous(&mut self, flags: SetFlags, key: (u32, u32)) -> AnonymousSet {
        self.sets += 1;
        let set = AnonymousSet { id: self.sets };
        let mut attributes =
            set_attributes(AnonymousSet::NAME, flags | SetFlags::Anonymous | SetFlags::Constant, key);
        attributes.push(SetAttribute::Id(set.id));
        self.push(NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
        set
    }

    /// Makes a named set; keeps it, with its elements, if it is there.
    pub(crate) fn named_set(&mut self, name: &str, key: (u32, u32)) {
        self.sets += 1;
        let mut attributes = set_attributes(name, SetFlags::empty(), key);
        attributes.push(SetAttribute::Id(self.sets));
        self.push(NfTablesMessage::NewSet(SetMessage { attributes }), NLM_F_CREATE);
    }

    /// Adds one element to a named set (it may be there), or deletes it (it must be there).
    pub(crate) fn element(&mut self, set: &str, value: &[u8], present: bool) {
        let attributes = element_list(set, None, vec![vec![key(value)]]);
        let message = SetElementMessage { attributes };
        if present {
            self.push(NfTablesMessage::NewSetElement(message), NLM_F_CREATE);
        } else {
            self.push(NfTablesMessage::DeleteSetElement(message), 0);
        }
    }

    fn elements(&mut self, name: &str, id: Option<u32>, elements: Vec<Vec<SetElementAttribute>>) {
        for some in elements.chunks(ELEMENTS_IN_MESSAGE) {
            let attributes = element_list(name, id, some.to_vec());
            self.push(NfTablesMessage::NewSetElement(SetElementMessage { attributes }), NLM_F_CREATE);
        }
    }
}

fn key(value: &[u8]) -> SetElementAttribute {
    SetElementAttribute::Key(DataAttribute::Value(value.to_vec()))
}

fn set_attributes(name: &str, flags: SetFlags, key: (u32, u32)) -> Vec<SetAttribute> {
    vec![
        SetAttribute::Table(TABLE.to_owned()),
        SetAttribute::Name(name.to_owned()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(key.0),
        SetAttribute::KeyLen(key.1),
    ]
}

fn element_list(name: &str, id: Option<u32>, elements: Vec<Vec<SetElementAttribute>>) -> Vec<SetElementList> {
    let mut attributes = vec![SetElementList::Table(TABLE.to_owned()), SetElementList::Set(name.to_owned())];
    attributes.extend(id.map(SetElementList::SetId));
    attributes.push(SetElementList::Elements(elements.into_iter().map(ListAttribute::Element).collect()));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn a_batch_that_is_refused_says_so_and_changes_nothing() {
        let namespace = Namespace::create().unwrap();
        let mut nft = Nftables::new_in(&namespace).unwrap();
        let mut batch = Batch::default();
        batch.table(vec![]);
        batch.chain("one", None);
        batch.rule("no such chain", &[&expr::drop_packet()]);
        batch.flush("one");
        let refused = nft.commit("try", batch).unwrap_err();
        assert_eq!(refused.errno(), Some(Errno::ENOENT), "{refused}");
        assert_eq!(nft.table_data().unwrap(), None);

        // The handle is still in step with the kernel.
        let mut batch = Batch::default();
        batch.table(b"x".to_vec());
        nft.commit("try", batch).unwrap();
        assert_eq!(nft.table_data().unwrap(), Some(b"x".to_vec()));
    }
}
