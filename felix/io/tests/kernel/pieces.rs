//! Tables that are read piece by piece.

use felix::desired::Row;
use felix::kernel::{KernelEvent, Op};
use felix_io::Table;
use felix_io::kernel::Piece;

use crate::namespace::kernel_test;
use crate::node::{Node, UNDERLAY, route, via};

/// More than wait for a reader at once.
const ROUTES: u16 = 5000;

/// The rows that the pieces of a table have.
async fn pieced(node: &Node, table: Table) -> (usize, Vec<Row>) {
    let mut pieces = node.kernel.read(table).await;
    let (mut count, mut rows) = (0, Vec::new());
    while let Some(piece) = pieces.next().await.unwrap() {
        match piece {
            Piece::Again => (count, rows) = (0, Vec::new()),
            Piece::Events(events) => {
                count += 1;
                rows.extend(events.into_iter().filter_map(|event| match event {
                    KernelEvent::RowSet(row) => Some(row),
                    _ => None,
                }));
            }
        }
    }
    (count, rows)
}

kernel_test!(
    pieces_of_a_table_are_the_whole_and_a_reader_that_goes_keeps_nobody,
    async {
        let node = Node::new().await;
        let route = |number: u16| {
            let [high, low] = number.to_be_bytes();
            route(&format!("10.80.{high}.{low}/32"), via("10.0.0.3", UNDERLAY))
        };
        let ops = (0..ROUTES).map(|number| Op::Set(route(number))).collect();
        for (key, result) in node.kernel.apply(ops).await {
            result.unwrap_or_else(|error| panic!("{key}: {error}"));
        }
        let whole = node.rows(Table::Routes).await;
        let (pieces, rows) = pieced(&node, Table::Routes).await;
        assert!(pieces > 8, "{pieces} pieces");
        assert_eq!(rows.len(), whole.len());
        assert!(rows.iter().all(|row| whole.get(&row.key()) == Some(row)));
        // What is small comes at once, and what is empty as well.
        let (pieces, rows) = pieced(&node, Table::Addrs).await;
        assert_eq!(
            (pieces, rows.len()),
            (1, node.rows(Table::Addrs).await.len())
        );
        assert_eq!(pieced(&node, Table::Fdb).await, (0, Vec::new()));
        let mut left = node.kernel.read(Table::Routes).await;
        assert!(left.next().await.unwrap().is_some());
        drop(left);
        assert_eq!(node.rows(Table::Routes).await.len(), whole.len());
    }
);
