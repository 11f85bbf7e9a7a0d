//! How long the small parts of the hot path take: `cargo bench --bench micro`, or some of them: `… -- encode`. Reads
//! through an engine, with a hundred thousand rows, are in `reads`; `instructions` counts the same parts.

use criterion::{Criterion, criterion_group, criterion_main};

use self::parts::PARTS;

mod parts;

fn micro(criterion: &mut Criterion) {
    for part in PARTS {
        criterion.bench_function(part.name, |bench| {
            let mut turn = (part.set_up)();
            bench.iter(&mut *turn);
        });
    }
}

criterion_group!(benches, micro);
criterion_main!(benches);
