//! The table against a list that is walked.

use proptest::prelude::*;

use super::*;
use crate::table::template::control::STEP;

/// A template of the model.
#[derive(Clone, Debug)]
struct Naive {
    at: TemplateRef,
    key: usize,
    dest: u32,
    timeout: u32,
    deadline: u32,
    controlled: u32,
    assured: bool,
    holder: u64,
}

/// The model: what is alive, and who has ended since the last sweep.
#[derive(Debug, Default)]
struct Model {
    now: u32,
    live: Vec<Naive>,
    ended: Vec<u32>,
    /// Places, with holds, of templates that were ended on purpose.
    held: Vec<(u32, u32)>,
    /// References given out, whose templates may have ended.
    refs: Vec<TemplateRef>,
    /// Places that wait for the sweeper.
    waiting: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Insert { key: usize, dest: u32, timeout: u32 },
    Lookup(usize),
    Acquire(usize),
    Touch(usize),
    Release(usize),
    Assure(usize),
    Repoint { at: usize, from: u32, to: u32 },
    Hold { at: usize, holder: u64 },
    End(usize),
    Sweep,
    Wait(u32),
}

const KEYS: usize = 12;
const CAPACITY: usize = 6;

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..20usize;
    prop_oneof![
        6 => (0..KEYS, 0..4u32, prop_oneof![1..400u32, 5_000..9_000u32])
            .prop_map(|(key, dest, timeout)| Op::Insert { key, dest, timeout }),
        3 => (0..KEYS).prop_map(Op::Lookup),
        4 => at().prop_map(Op::Acquire),
        2 => at().prop_map(Op::Touch),
        3 => at().prop_map(Op::Release),
        1 => at().prop_map(Op::Assure),
        2 => (at(), 0..4u32, 0..4u32).prop_map(|(at, from, to)| Op::Repoint { at, from, to }),
        1 => (at(), any::<u64>()).prop_map(|(at, holder)| Op::Hold { at, holder }),
        1 => at().prop_map(Op::End),
        3 => Just(Op::Sweep),
        5 => prop_oneof![0..200u32, 3_000..9_000u32].prop_map(Op::Wait),
    ]
}

/// The keys' data: none, short and long.
fn data(key: usize) -> Option<Vec<u8>> {
    let byte = u8::try_from(key).expect("few keys");
    (!key.is_multiple_of(3)).then(|| vec![byte; key / 3 * 90])
}

fn numbered(key: usize, data: Option<&[u8]>) -> TemplateKey<'_> {
    let vport = u16::try_from(key).expect("few keys");
    TemplateKey {
        vport,
        ..super::key(9, data)
    }
}

impl Model {
    /// Lets the timers fire that are due.
    fn fire(&mut self) {
        let now = self.now;
        for template in &mut self.live {
            while template.deadline <= now && template.controlled > 0 {
                template.deadline += STEP;
                template.timeout = STEP;
            }
        }
        let (live, over): (Vec<_>, Vec<_>) = self.live.drain(..).partition(|t| t.deadline > now);
        self.live = live;
        self.ended.extend(over.iter().map(|t| t.dest));
        self.waiting += over.len();
    }

    fn find(&mut self, at: TemplateRef) -> Option<&mut Naive> {
        self.live.iter_mut().find(|t| t.at == at)
    }

    /// One of the references given out; the youngest are the likeliest to be alive.
    fn any_ref(&self, i: usize) -> Option<TemplateRef> {
        let len = self.refs.len();
        (len > 0).then(|| self.refs[len - 1 - i % len])
    }
}

fn run(table: &Templates, model: &mut Model, op: &Op) {
    match *op {
        Op::Insert { key, dest, timeout } => run_insert(table, model, key, dest, timeout),
        Op::Lookup(key) => {
            let expected = model.live.iter().find(|t| t.key == key);
            let expected = expected.map(|t| (t.at, DestId(t.dest)));
            let data = data(key);
            let key = numbered(key, data.as_deref());
            assert_eq!(
                table.lookup(&key, table.hash(&key), Tick(model.now)),
                expected
            );
        }
        Op::Release(i) => run_release(table, model, i),
        Op::Sweep => {
            model.ended.sort_unstable();
            assert_eq!(
                swept(table, Tick(model.now)),
                std::mem::take(&mut model.ended)
            );
            model.waiting = 0;
        }
        Op::Wait(ticks) => model.now += ticks,
        Op::Acquire(i) | Op::Touch(i) | Op::Assure(i) | Op::End(i) => {
            if let Some(at) = model.any_ref(i) {
                run_on(table, model, op, at);
            }
        }
        Op::Repoint { at: i, .. } | Op::Hold { at: i, .. } => {
            if let Some(at) = model.any_ref(i) {
                run_on(table, model, op, at);
            }
        }
    }
}

fn run_insert(table: &Templates, model: &mut Model, key: usize, dest: u32, timeout: u32) {
    let data = data(key);
    let now = Tick(model.now);
    let placed = insert(
        table,
        &numbered(key, data.as_deref()),
        &new(dest, timeout),
        now,
    );
    if let Some(old) = model.live.iter().find(|t| t.key == key) {
        assert_eq!(placed, Ok(Placed::Existing(old.at, DestId(old.dest))));
        return;
    }
    if model.live.len() + model.waiting + model.held.len() == CAPACITY {
        assert_eq!(placed, Err(InsertRefused::TableFull));
        return;
    }
    let Ok(Placed::New(at)) = placed else {
        panic!("{placed:?}")
    };
    assert!(!model.refs.contains(&at), "a reference was given twice");
    model.refs.push(at);
    let deadline = model.now + timeout;
    let (controlled, assured, holder) = (0, false, 0);
    model.live.push(Naive {
        at,
        key,
        dest,
        timeout,
        deadline,
        controlled,
        assured,
        holder,
    });
}

/// An operation on one template, which may have ended.
fn run_on(table: &Templates, model: &mut Model, op: &Op, at: TemplateRef) {
    let now = Tick(model.now);
    let Some(t) = model.find(at) else {
        return run_on_ended(table, op, at, now);
    };
    match *op {
        Op::Acquire(_) | Op::Touch(_) => {
            t.deadline = now.0 + t.timeout;
            if matches!(op, Op::Acquire(_)) {
                t.controlled += 1;
                assert!(table.acquire(at, now));
            } else {
                assert!(table.touch(at, now));
            }
        }
        Op::Assure(_) => {
            t.assured = true;
            assert!(table.assure(at));
        }
        Op::Repoint { from, to, .. } if t.dest == from => {
            t.dest = to;
            assert_eq!(table.repoint(at, DestId(from), DestId(to)), Repoint::Moved);
        }
        Op::Repoint { from, to, .. } => {
            let already = Repoint::Already(DestId(t.dest));
            assert_eq!(table.repoint(at, DestId(from), DestId(to)), already);
        }
        Op::Hold { holder, .. } => {
            let old = std::mem::replace(&mut t.holder, holder);
            assert_eq!(table.swap_holder(at, holder, now), Some(old));
        }
        Op::End(_) => {
            let (dest, controlled) = (t.dest, t.controlled);
            assert!(table.end(at));
            model.live.retain(|t| t.at != at);
            model.ended.push(dest);
            if controlled > 0 {
                model.held.push((at.index, controlled));
            } else {
                model.waiting += 1;
            }
        }
        _ => unreachable!("not an operation on one template"),
    }
}

fn run_on_ended(table: &Templates, op: &Op, at: TemplateRef, now: Tick) {
    match *op {
        Op::Acquire(_) => assert!(!table.acquire(at, now)),
        Op::Touch(_) => assert!(!table.touch(at, now)),
        Op::Hold { holder, .. } => assert_eq!(table.swap_holder(at, holder, now), None),
        // The others have no clock: they may still reach one that expired a moment ago.
        _ => {}
    }
}

/// Releases a hold of a live template, or one of a template that was ended on purpose.
fn run_release(table: &Templates, model: &mut Model, i: usize) {
    let now = Tick(model.now);
    let mut held: Vec<_> = model.live.iter_mut().filter(|t| t.controlled > 0).collect();
    let (live, all) = (held.len(), held.len() + model.held.len());
    if all == 0 {
        return;
    }
    let i = i % all;
    if i < live {
        held[i].controlled -= 1;
        assert!(table.release(held[i].at.index, now));
        return;
    }
    let (place, holds) = &mut model.held[i - live];
    assert!(table.release(*place, now));
    *holds -= 1;
    if *holds == 0 {
        model.held.remove(i - live);
        model.waiting += 1;
    }
}

/// All that is listed is all that is alive.
fn compare(table: &Templates, model: &Model) {
    let mut listed: Vec<_> = rows(table, Tick(model.now))
        .into_iter()
        .map(|row| {
            let key = usize::from(row.key.vport);
            assert_eq!(row.data, data(key));
            let times = (row.timeout, model.now + row.remaining, row.controlled);
            let at = (row.at.index, row.at.version);
            (at, key, row.dest.0, times, row.assured, row.holder)
        })
        .collect();
    let mut expected: Vec<_> = model
        .live
        .iter()
        .map(|t| {
            let times = (t.timeout, t.deadline, t.controlled);
            let at = (t.at.index, t.at.version);
            (at, t.key, t.dest, times, t.assured, t.holder)
        })
        .collect();
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_list_of_operations_does_what_a_walked_list_does(
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let (table, mut model) = (table(CAPACITY), Model::default());
        for op in &ops {
            model.fire();
            run(&table, &mut model, op);
            model.fire();
            compare(&table, &model);
        }
    }
}
