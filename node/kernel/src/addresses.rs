//! Core's address manager (`peers.dat`), its groups of networks, anchors and fixed seeds.
//!
//! Addresses cross as payloads of `addrv2` (BIP155), which hold services and times too; a single one is a payload with
//! one entry. Networks are BIP155's numbers, sets of them are bits.

use std::os::raw::c_int;

use crate::codec::Answer;
use crate::error::KernelError;
use crate::ffi;
use crate::node::Kernel;

/// Where addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource<'a> {
    /// A peer, by its own address.
    Peer(&'a [u8]),
    /// Something with a name: a DNS seed.
    Name(&'a str),
}

/// An entry chosen by the address manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenAddress {
    /// A payload with one entry.
    pub address: Vec<u8>,
    /// When it was tried last, in seconds since 1970.
    pub last_try: i64,
}

impl Kernel {
    /// Known addresses, of one network or of all (0).
    pub fn book_size(&self, network: u8) -> Result<u64, KernelError> {
        Answer::new(ffi::kl_book_size(network)).fields()?.u64()
    }

    /// Takes addresses as `penalty_secs` older than they claim to be. False if none was new.
    pub fn book_learn(&self, list: &[u8], from: AddressSource<'_>, penalty_secs: i64) -> Result<bool, KernelError> {
        let (source, name) = match from {
            AddressSource::Peer(address) => (address, ""),
            AddressSource::Name(name) => (&[][..], name),
        };
        Answer::new(ffi::kl_book_learn(list.into(), source.into(), name.into(), penalty_secs)).fields()?.bool()
    }

    /// It answered with a handshake. True if it now counts as tried.
    pub fn book_good(&self, address: &[u8]) -> Result<bool, KernelError> {
        Answer::new(ffi::kl_book_good(address.into())).fields()?.bool()
    }

    /// A connection is being tried.
    pub fn book_attempt(&self, address: &[u8], count_failure: bool) -> Result<(), KernelError> {
        Answer::new(ffi::kl_book_attempt(address.into(), c_int::from(count_failure))).done()
    }

    /// A connection to it ended.
    pub fn book_connected(&self, address: &[u8]) -> Result<(), KernelError> {
        Answer::new(ffi::kl_book_connected(address.into())).done()
    }

    /// It offers the services of the entry.
    pub fn book_set_services(&self, address: &[u8]) -> Result<(), KernelError> {
        Answer::new(ffi::kl_book_services(address.into())).done()
    }

    /// One of the given networks to connect to.
    pub fn book_choose(&self, only_new: bool, networks: u32) -> Result<Option<ChosenAddress>, KernelError> {
        chosen(ffi::kl_book_choose(c_int::from(only_new), networks))
    }

    /// One that was reached before and whose place another wants: is it still there?
    pub fn book_collision(&self) -> Result<Option<ChosenAddress>, KernelError> {
        chosen(ffi::kl_book_collision())
    }

    /// A share of the good ones, as a payload.
    pub fn book_sample(&self, most: u32, percent: u32) -> Result<Vec<u8>, KernelError> {
        list(ffi::kl_book_sample(most, percent))
    }

    /// Writes `peers.dat`.
    pub fn book_save(&self) -> Result<(), KernelError> {
        Answer::new(ffi::kl_book_save()).done()
    }

    /// Addresses with equal groups count as one operator's.
    pub fn address_group(&self, address: &[u8]) -> Result<Vec<u8>, KernelError> {
        list(ffi::kl_address_group(address.into()))
    }

    /// The autonomous system by `-asmap`, 0 if it is not known.
    pub fn address_mapped_as(&self, address: &[u8]) -> Result<u32, KernelError> {
        Answer::new(ffi::kl_address_mapped_as(address.into())).fields()?.u32()
    }

    /// Networks that may be dialed.
    pub fn set_reachable(&self, networks: u32) {
        ffi::kl_set_reachable(networks);
    }

    /// Finds out by what addresses others may reach us: those of this machine where `on_any` of them is listened on, and what a
    /// router gives us by PCP or NAT-PMP, unless options forbid it.
    pub fn find_own_addresses(&self, on_any: bool) -> Result<(), KernelError> {
        Answer::new(ffi::kl_find_own(c_int::from(on_any))).done()
    }

    /// What was found so far, as a payload, and the score of each.
    pub fn own_addresses(&self) -> Result<(Vec<u8>, Vec<u32>), KernelError> {
        let answer = Answer::new(ffi::kl_own());
        let mut fields = answer.fields()?;
        let list = fields.bytes()?.to_vec();
        Ok((list, std::iter::from_fn(|| fields.u32().ok()).collect()))
    }

    /// The network's hard-coded addresses, as a payload.
    pub fn fixed_seeds(&self) -> Result<Vec<u8>, KernelError> {
        list(ffi::kl_fixed_seeds())
    }

    /// Reads `anchors.dat`, and removes it.
    pub fn anchors_take(&self) -> Result<Vec<u8>, KernelError> {
        list(ffi::kl_anchors_take())
    }

    /// Writes `anchors.dat`.
    pub fn anchors_keep(&self, list: &[u8]) -> Result<(), KernelError> {
        Answer::new(ffi::kl_anchors_keep(list.into())).done()
    }
}

fn list(buffer: ffi::Buffer) -> Result<Vec<u8>, KernelError> {
    let answer = Answer::new(buffer);
    let mut fields = answer.fields()?;
    Ok(fields.bytes()?.to_vec())
}

fn chosen(buffer: ffi::Buffer) -> Result<Option<ChosenAddress>, KernelError> {
    let read =
        |f: &mut crate::codec::Fields<'_>| Ok(ChosenAddress { address: f.bytes()?.to_vec(), last_try: f.i64()? });
    Answer::new(buffer).fields()?.option(read)
}
