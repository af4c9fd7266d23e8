//! Entries as records, their ids and their digests.
//!
//! What an entry says that the format has no room for (other bits of `flags`, longer times than [`TIME_MAX`], the scope of
//! an IPv6 address) is neither sent nor counted in a digest, so that both sides compute the same.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use super::TIME_MAX;
use super::read::Fields;
use super::record::{HEAD_LEN, head};
use crate::net::{Af, Family, HashKey, V4, V6, hash_bytes};
use crate::sync::entry::{ConnEntry, Entry, EntryId, ServiceName, TemplateEntry};
use crate::sync::ipvs::AnyEnds;
use crate::sync::polder::Rejected;
use crate::table::{Ends, flag};

/// Types of records.
const CONN_V4: u8 = 1;
const CONN_V6: u8 = 2;
pub(super) const TEMPLATE: u8 = 3;

/// Bits of an entry that are told.
const FLAGS: u16 = flag::METHOD | flag::NOOUTPUT | flag::INACTIVE;
/// Bit of a connection's `bits`: the id of its template follows.
const HAS_TEMPLATE: u8 = 1;
/// Bits of a template's `bits`: a key follows; a connection under it was established.
const HAS_DATA: u8 = 1;
const ASSURED: u8 = 2;

/// Bytes of a connection's fields in front of its addresses.
const CONN_FIXED: usize = 23;
/// Where the time that is left is in them.
const CONN_REMAINING: usize = 19;
const ID_LEN: usize = 16;
/// Longest record of a connection, head included.
const CONN_MAX: usize = HEAD_LEN + CONN_FIXED + 3 * 16 + ID_LEN;
/// Longest fields of a template in front of its key, and of all of them.
const TEMPLATE_HEAD_MAX: usize = 96;
pub(super) const TEMPLATE_MAX: usize = TEMPLATE_HEAD_MAX + crate::table::template::DATA_MAX;

/// The bucket of an entry.
#[must_use]
pub fn bucket_of(id: EntryId) -> u8 {
    id.0.to_be_bytes()[0]
}

/// A connection's record, head included, and its length.
#[inline]
pub(super) fn conn(conn: &ConnEntry, remaining: u32) -> ([u8; CONN_MAX], usize) {
    let mut out = [0; CONN_MAX];
    let len = match &conn.ends {
        AnyEnds::V4(ends) => put_conn::<V4>(CONN_V4, conn, ends, remaining, &mut out),
        AnyEnds::V6(ends) => put_conn::<V6>(CONN_V6, conn, ends, remaining, &mut out),
    };
    (out, len)
}

#[inline]
fn put_conn<F: Family>(
    kind: u8,
    conn: &ConnEntry,
    ends: &Ends<F>,
    remaining: u32,
    out: &mut [u8; CONN_MAX],
) -> usize {
    let addresses_end = HEAD_LEN + CONN_FIXED + 3 * F::ADDR_LEN;
    let len = addresses_end + conn.template.map_or(0, |_| ID_LEN);
    out[..HEAD_LEN].copy_from_slice(&head(kind, len - HEAD_LEN));
    let (fixed, rest) = out[HEAD_LEN..].split_at_mut(CONN_FIXED);
    fixed[0] = conn.template.map_or(0, |_| HAS_TEMPLATE);
    fixed[1] = ends.proto;
    fixed[2] = conn.state;
    fixed[3..5].copy_from_slice(&(conn.flags & FLAGS).to_be_bytes());
    fixed[5..7].copy_from_slice(&ends.cport.to_be_bytes());
    fixed[7..9].copy_from_slice(&ends.vport.to_be_bytes());
    fixed[9..11].copy_from_slice(&ends.dport.to_be_bytes());
    fixed[11..15].copy_from_slice(&conn.mark.to_be_bytes());
    fixed[15..19].copy_from_slice(&conn.timeout.min(TIME_MAX).to_be_bytes());
    fixed[CONN_REMAINING..].copy_from_slice(&remaining.to_be_bytes());
    F::write(ends.caddr, rest);
    F::write(ends.vaddr, &mut rest[F::ADDR_LEN..]);
    F::write(ends.daddr, &mut rest[2 * F::ADDR_LEN..]);
    if let Some(id) = conn.template {
        out[addresses_end..len].copy_from_slice(&id.0.to_be_bytes());
    }
    len
}

/// The entry of a record; nothing when the type is not one of an entry.
#[inline]
pub(super) fn decode(kind: u8, bytes: &[u8]) -> Option<Result<Entry, Rejected>> {
    Some(match kind {
        CONN_V4 => read_conn::<V4>(bytes).map(Entry::Conn),
        CONN_V6 => read_conn::<V6>(bytes).map(Entry::Conn),
        TEMPLATE => read_template(bytes).map(|t| Entry::Template(Box::new(t))),
        _ => return None,
    })
}

#[inline]
fn read_conn<F: Family>(bytes: &[u8]) -> Result<ConnEntry, Rejected>
where
    AnyEnds: From<Ends<F>>,
{
    let (fixed, rest) = bytes
        .split_first_chunk::<CONN_FIXED>()
        .ok_or(Rejected::RecordShort)?;
    let (addresses, rest) = rest
        .split_at_checked(3 * F::ADDR_LEN)
        .ok_or(Rejected::RecordShort)?;
    let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let be32 =
        |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let template = match fixed[0] & HAS_TEMPLATE {
        0 => None,
        _ => {
            let id = rest.first_chunk().ok_or(Rejected::RecordShort)?;
            Some(EntryId(u128::from_be_bytes(*id)))
        }
    };
    let ends = Ends {
        proto: fixed[1],
        caddr: F::read(addresses),
        cport: be16(5),
        vaddr: F::read(&addresses[F::ADDR_LEN..]),
        vport: be16(7),
        daddr: F::read(&addresses[2 * F::ADDR_LEN..]),
        dport: be16(9),
    };
    Ok(ConnEntry {
        ends: ends.into(),
        mark: be32(11),
        state: fixed[2],
        flags: be16(3) & FLAGS,
        timeout: time(be32(15))?,
        remaining: time(be32(CONN_REMAINING))?,
        template,
    })
}

fn time(ticks: u32) -> Result<u32, Rejected> {
    match ticks {
        0..=TIME_MAX => Ok(ticks),
        _ => Err(Rejected::RecordValue),
    }
}

/// Tags of addresses, families and services.
const TAG_V4: u8 = 4;
const TAG_V6: u8 = 6;
const TAG_MARK: u8 = 1;

/// A short run of bytes that is built on the stack.
type Short = ArrayVec<u8, TEMPLATE_HEAD_MAX>;

fn add(out: &mut Short, bytes: &[u8]) {
    out.try_extend_from_slice(bytes)
        .expect("the longest fields are 86 bytes");
}

fn af_tag(af: Af) -> u8 {
    match af {
        Af::V4 => TAG_V4,
        Af::V6 => TAG_V6,
    }
}

fn add_addr(out: &mut Short, addr: IpAddr) {
    match addr {
        IpAddr::V4(a) => add(out, &a.octets()),
        IpAddr::V6(a) => add(out, &a.octets()),
    }
}

/// Without the zeros behind it: addresses of IPv4 and marks have four bytes of sixteen.
fn add_trimmed(out: &mut Short, bytes: &[u8; 16]) {
    let len = 16 - bytes.iter().rev().take_while(|b| **b == 0).count();
    out.push(u8::try_from(len).expect("it is at most 16"));
    add(out, &bytes[..len]);
}

/// The fields that a template is known by, but for its data: 8 to 59 bytes.
fn add_template_key(out: &mut Short, template: &TemplateEntry) {
    add(out, &[af_tag(template.af), template.proto]);
    add(out, &template.vport.to_be_bytes());
    add_trimmed(out, &template.client);
    add_trimmed(out, &template.vaddr);
    match template.service {
        ServiceName::Address { proto, addr, port } => {
            add(out, &[af_tag(Af::of(addr)), proto]);
            add(out, &port.to_be_bytes());
            add_addr(out, addr);
        }
        ServiceName::Mark { af, mark } => {
            add(out, &[TAG_MARK, af_tag(af)]);
            add(out, &mark.to_be_bytes());
        }
    }
}

/// All fields but the data: the bits, the key, the real server, and the times.
fn template_head(template: &TemplateEntry, remaining: u32) -> Short {
    let mut out = Short::new();
    let data = template.data.as_ref().map_or(0, |_| HAS_DATA);
    out.push(data | if template.assured { ASSURED } else { 0 });
    add_template_key(&mut out, template);
    out.push(af_tag(Af::of(template.dest.ip())));
    add(&mut out, &template.dest.port().to_be_bytes());
    add_addr(&mut out, template.dest.ip());
    add(&mut out, &template.timeout.min(TIME_MAX).to_be_bytes());
    add(&mut out, &remaining.to_be_bytes());
    out
}

/// Bytes that [`put_template`] appends.
pub(super) fn template_len(template: &TemplateEntry) -> usize {
    let data = template.data.as_ref().map_or(0, |data| 2 + data.len());
    template_head(template, 0).len() + data
}

/// Appends a template's fields.
///
/// # Panics
/// When its data are longer than those of any template.
pub(super) fn put_template(template: &TemplateEntry, remaining: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&template_head(template, remaining));
    if let Some(data) = &template.data {
        let len = u16::try_from(data.len()).expect("tables take no longer data");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(data);
    }
}

fn read_template(bytes: &[u8]) -> Result<TemplateEntry, Rejected> {
    let mut fields = Fields(bytes);
    let mut values = TemplateFields {
        fields: &mut fields,
        wrong: false,
    };
    match values.template() {
        Some(template) => Ok(template),
        None if values.wrong => Err(Rejected::RecordValue),
        None => Err(Rejected::RecordShort),
    }
}

/// Reads a template's fields, and remembers whether it ended at a value rather than at the end of the bytes.
struct TemplateFields<'f, 'a> {
    fields: &'f mut Fields<'a>,
    wrong: bool,
}

impl TemplateFields<'_, '_> {
    fn template(&mut self) -> Option<TemplateEntry> {
        let bits = self.fields.u8()?;
        Some(TemplateEntry {
            af: self.af()?,
            proto: self.fields.u8()?,
            vport: self.fields.u16()?,
            client: self.trimmed()?,
            vaddr: self.trimmed()?,
            service: self.service()?,
            dest: self.dest()?,
            timeout: self.time()?,
            remaining: self.time()?,
            data: match bits & HAS_DATA {
                0 => None,
                _ => Some(self.data()?),
            },
            assured: bits & ASSURED != 0,
        })
    }

    fn wrong<T>(&mut self) -> Option<T> {
        self.wrong = true;
        None
    }

    fn af(&mut self) -> Option<Af> {
        match self.fields.u8()? {
            TAG_V4 => Some(Af::V4),
            TAG_V6 => Some(Af::V6),
            _ => self.wrong(),
        }
    }

    fn addr(&mut self, af: Af) -> Option<IpAddr> {
        match af {
            Af::V4 => self.fields.ipv4(),
            Af::V6 => self.fields.ipv6(),
        }
    }

    fn trimmed(&mut self) -> Option<[u8; 16]> {
        let mut out = [0; 16];
        let len = usize::from(self.fields.u8()?);
        match out.get_mut(..len) {
            Some(to) => to.copy_from_slice(self.fields.take(len)?),
            None => return self.wrong(),
        }
        Some(out)
    }

    fn service(&mut self) -> Option<ServiceName> {
        let af = match self.fields.u8()? {
            TAG_MARK => {
                let af = self.af()?;
                return match self.fields.u32()? {
                    0 => self.wrong(),
                    mark => Some(ServiceName::Mark { af, mark }),
                };
            }
            TAG_V4 => Af::V4,
            TAG_V6 => Af::V6,
            _ => return self.wrong(),
        };
        Some(ServiceName::Address {
            proto: self.fields.u8()?,
            port: self.fields.u16()?,
            addr: self.addr(af)?,
        })
    }

    fn dest(&mut self) -> Option<SocketAddr> {
        let af = self.af()?;
        let port = self.fields.u16()?;
        Some(SocketAddr::new(self.addr(af)?, port))
    }

    fn time(&mut self) -> Option<u32> {
        match time(self.fields.u32()?) {
            Ok(ticks) => Some(ticks),
            Err(_) => self.wrong(),
        }
    }

    fn data(&mut self) -> Option<Box<[u8]>> {
        let len = usize::from(self.fields.u16()?);
        self.fields.take(len).map(Box::from)
    }
}

/// The same secret in other places: what it makes of bytes says nothing of what the first makes of them.
fn second(key: &HashKey) -> HashKey {
    let [a, b, c, d] = key.0;
    HashKey([
        d.rotate_left(17),
        c.rotate_left(31) ^ a,
        a.rotate_left(43),
        b.rotate_left(5) ^ d,
    ])
}

/// 128 bits of hash.
#[inline]
fn wide(bytes: &[u8], key: &HashKey) -> u128 {
    let high = hash_bytes(bytes, key);
    let low = hash_bytes(bytes, &second(key));
    u128::from(high) << 64 | u128::from(low)
}

/// The id that an entry has by its key under the secret of the director that has it.
#[must_use]
pub fn id_of(key: &HashKey, entry: &Entry) -> EntryId {
    EntryId(match entry {
        Entry::Conn(conn) => match &conn.ends {
            AnyEnds::V4(ends) => conn_id::<V4>(CONN_V4, ends, key),
            AnyEnds::V6(ends) => conn_id::<V6>(CONN_V6, ends, key),
        },
        Entry::Template(template) => template_id(template, key),
    })
}

/// The same of a template.
#[must_use]
pub fn id_of_template(key: &HashKey, template: &TemplateEntry) -> EntryId {
    EntryId(template_id(template, key))
}

#[inline]
fn conn_id<F: Family>(kind: u8, ends: &Ends<F>, key: &HashKey) -> u128 {
    let mut bytes = [0; 6 + 2 * 16];
    bytes[0] = kind;
    bytes[1] = ends.proto;
    bytes[2..4].copy_from_slice(&ends.cport.to_be_bytes());
    bytes[4..6].copy_from_slice(&ends.vport.to_be_bytes());
    F::write(ends.caddr, &mut bytes[6..]);
    F::write(ends.vaddr, &mut bytes[6 + F::ADDR_LEN..]);
    wide(&bytes[..6 + 2 * F::ADDR_LEN], key)
}

fn template_id(template: &TemplateEntry, key: &HashKey) -> u128 {
    let mut bytes = Short::new();
    bytes.push(TEMPLATE);
    add_template_key(&mut bytes, template);
    if let Some(data) = &template.data {
        add(&mut bytes, &wide(data, key).to_be_bytes());
    }
    wide(&bytes, key)
}

/// A digest of everything that is told of an entry but the time that is left.
#[must_use]
pub fn digest_of(key: &HashKey, entry: &Entry) -> u64 {
    match entry {
        Entry::Conn(c) => {
            let (bytes, len) = conn(c, 0);
            hash_bytes(&bytes[..len], key)
        }
        Entry::Template(template) => {
            let head = template_head(template, 0);
            let mut bytes: ArrayVec<u8, { TEMPLATE_HEAD_MAX + 9 }> = ArrayVec::new();
            bytes.push(TEMPLATE);
            bytes.extend(head);
            if let Some(data) = &template.data {
                bytes.extend(hash_bytes(data, key).to_be_bytes());
            }
            hash_bytes(&bytes, key)
        }
    }
}
