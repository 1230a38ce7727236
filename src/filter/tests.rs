//! Filters on a made-up snapshot, and the errors for texts that are not filters.

use super::*;
use crate::snapshot::testing::Draft;
use crate::snapshot::{Kind, State};

/// A thread that resumed a coroutine, two that wait, and one of which only the size is known.
fn snapshot() -> Snapshot {
    let mut draft = Draft::new();
    let main = draft.stack(Kind::Thread, State::Resuming, 8 << 20, 8 << 10, &[("run", 5, 96), ("main", 7, 160)]);
    let decoding = [("serde::parse", 1291, 1000), ("chatd::proto::decode", 88, 50_000), ("chatd::conn::run", 41, 96)];
    let running = draft.stack(Kind::Coroutine, State::Running, 64 << 10, 6 << 10, &decoding);
    let reading = [("[epoll_wait]", 0, 64), ("chatd::Conn::read", 120, 400), ("chatd::conn::run", 41, 96)];
    draft.stack(Kind::Coroutine, State::Suspended, 64 << 10, 8 << 10, &reading);
    draft.stack(Kind::Coroutine, State::New, 1 << 20, 0, &[]);
    draft.run(48213, "worker two", running, &[main]);
    draft.finish()
}

/// The ids of the stacks that fit.
fn picked(filter: &str) -> Vec<usize> {
    let snapshot = snapshot();
    let filter = Filter::parse(filter).unwrap();
    (0..snapshot.stacks.len()).filter(|id| filter.matches(&snapshot, *id)).collect()
}

#[test]
fn terms_pick_stacks() {
    let cases: [(&str, &[usize]); 33] = [
        ("", &[0, 1, 2, 3]),
        ("  kind:coro  ", &[1, 2, 3]),
        ("kind=coroutine", &[1, 2, 3]),
        ("KIND:CORO state:susp", &[2]),
        ("kind:coro !state:new", &[1, 2]),
        ("!!kind:thread", &[0]),
        ("fn:DECODE", &[1]),
        ("!fn:decode", &[0, 2, 3]),
        ("fn=chatd::conn::run", &[1, 2]),
        ("fn=conn::run", &[]),
        ("top:Conn::read", &[2]),
        ("top:epoll", &[]),
        ("fn:epoll", &[2]),
        ("entry:chatd", &[1, 2]),
        ("name:\"worker two\"", &[0]),
        ("!name:worker", &[1, 2, 3]),
        ("thread:48213", &[1]),
        ("id:2", &[2]),
        ("id>=2", &[2, 3]),
        ("peak>80%", &[1]),
        ("peak>80% !fn:decode", &[]),
        ("!peak>80%", &[0, 2, 3]),
        ("used<1K", &[0, 2, 3]),
        ("used=560", &[2]),
        ("size>=1m size<=1M", &[3]),
        ("size>0.5M", &[0, 3]),
        ("size:65536", &[1, 2]),
        ("free<16K", &[1]),
        ("free<100%", &[0, 1, 2]),
        ("level:warn", &[]),
        ("level:high", &[1]),
        ("guard:none", &[2]),
        ("confidence:cert guard:ok", &[0, 1, 3]),
    ];
    for (filter, expected) in cases {
        assert_eq!(picked(filter), expected, "{filter}");
    }
}

#[test]
fn an_error_names_its_column() {
    let cases = [
        ("kind=coro", "column 6: 'coro' is none of thread coroutine segment signal unknown"),
        ("kind:corx", "column 6: 'corx' is none of thread coroutine segment signal unknown"),
        (
            "kind:coro peek>3",
            "column 11: there is no key 'peek'; the keys are kind state name entry top fn id thread used peak size free level guard confidence",
        ),
        (
            "größe>3",
            "column 1: there is no key 'größe'; the keys are kind state name entry top fn id thread used peak size free level guard confidence",
        ),
        ("peak", "column 5: 'peak' needs an operator and a value, as in peak>64K"),
        ("name:ä !state", "column 14: 'state' needs an operator and a value, as in state:running"),
        ("kind>coro", "column 5: 'kind' is no number: it goes with ':' and '='"),
        ("fn<=x", "column 3: 'fn' is no number: it goes with ':' and '='"),
        ("peak>", "column 6: a value is missing"),
        ("fn:\"\"", "column 4: a value is missing"),
        ("fn:\"a b", "column 4: the closing quote is missing"),
        ("fn:\"a b\"c", "column 9: a space is missing after the closing quote"),
        ("id:1K", "column 4: '1K' is no whole number"),
        ("peak>1e3", "column 6: '1e3' is no size, as 4096, 64K, 1.5M or 80% are"),
        ("size:infK", "column 6: 'infK' is no size, as 4096, 64K, 1.5M or 80% are"),
        ("size:ä", "column 6: 'ä' is no size, as 4096, 64K, 1.5M or 80% are"),
    ];
    for (filter, expected) in cases {
        assert_eq!(Filter::parse(filter).unwrap_err().to_string(), expected, "{filter}");
    }
}
