//! What the two databases hold in the end, and whether it is the same.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;

use diesel::prelude::*;

use crate::billing::{Invoice, invoices};
use crate::orders::{Order, orders};

pub(crate) struct Books {
    orders: Vec<Order>,
    /// In the order in which they were written.
    invoices: Vec<Invoice>,
}

impl Books {
    pub(crate) fn open(of_orders: &str, of_billing: &str) -> Result<Self, Box<dyn Error>> {
        let orders = orders::table.order(orders::id).load(&mut SqliteConnection::establish(of_orders)?)?;
        let invoices =
            invoices::table.order(invoices::id).load(&mut SqliteConnection::establish(of_billing)?)?;
        Ok(Self { orders, invoices })
    }

    /// What is wrong, in words; nothing, if they agree.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut by_order: HashMap<i64, Vec<&Invoice>> = HashMap::new();
        for invoice in &self.invoices {
            by_order.entry(invoice.order_id).or_default().push(invoice);
        }
        let mut differences = Vec::new();
        for Order { id, cents, version, invoices, invoiced_cents, .. } in &self.orders {
            let billed = by_order.remove(id).unwrap_or_default();
            // One invoice for each version, in their order: none is missing, none is there twice.
            if !billed.iter().map(|invoice| invoice.order_version).eq(1..=*version) {
                let versions: Vec<i64> = billed.iter().map(|invoice| invoice.order_version).collect();
                differences
                    .push(format!("order {id} has {version} versions, and was billed for {versions:?}"));
            }
            let sum: i64 = billed.iter().map(|invoice| invoice.cents).sum();
            if sum != *cents {
                differences.push(format!("order {id} is over {cents} cents, and {sum} were billed"));
            }
            if (*invoices, *invoiced_cents) != (*version, *cents) {
                differences.push(format!(
                    "order {id} of {version} versions and {cents} cents has heard of {invoices} invoices over \
                     {invoiced_cents}"
                ));
            }
        }
        differences.extend(by_order.keys().map(|id| format!("order {id} was billed, and was never placed")));
        differences
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { orders, invoices } = self;
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for invoice in invoices {
            *kinds.entry(&invoice.kind).or_default() += 1;
        }
        let kind = |kind: &str| kinds.get(kind).copied().unwrap_or_default();
        let versions: i64 = orders.iter().map(|order| order.version).sum();
        let cancelled = orders.iter().filter(|order| order.status == "CANCELLED").count();
        let changed = versions - orders.len() as i64 - cancelled as i64;
        let cents: i64 = orders.iter().map(|order| order.cents).sum();
        let billed: i64 = invoices.iter().map(|invoice| invoice.cents).sum();
        let (told, told_cents) = orders
            .iter()
            .fold((0, 0), |(told, cents), order| (told + order.invoices, cents + order.invoiced_cents));

        writeln!(
            f,
            "{:<24}{:>10}{:>10}{:>10}{:>10}{:>14}",
            "", "placed", "changed", "cancelled", "all", "cents"
        )?;
        let (placed, billed_all) = (orders.len(), invoices.len());
        writeln!(
            f,
            "{:<24}{placed:>10}{changed:>10}{cancelled:>10}{versions:>10}{cents:>14}",
            "orders: the orders"
        )?;
        writeln!(
            f,
            "{:<24}{:>10}{:>10}{:>10}{billed_all:>10}{billed:>14}",
            "billing: the invoices",
            kind("invoice"),
            kind("correction"),
            kind("credit"),
        )?;
        writeln!(f, "{:<24}{:>40}{told_cents:>14}", "orders: as billing told", told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(id: i64, version: i64, cents: i64) -> Order {
        Order { id, status: "OPEN".to_owned(), cents, version, invoices: version, invoiced_cents: cents }
    }

    fn invoice(order_id: i64, order_version: i64, cents: i64) -> Invoice {
        Invoice { id: 0, order_id, order_version, kind: "invoice".to_owned(), cents }
    }

    fn check(orders: &[Order], invoices: &[Invoice], expected: &[&str]) {
        let books = Books { orders: orders.to_vec(), invoices: invoices.to_vec() };
        assert_eq!(books.differences(), expected);
    }

    #[test]
    fn books_that_agree_have_no_differences() {
        check(&[], &[], &[]);
        let invoices = [invoice(1, 1, 500), invoice(2, 1, 70), invoice(1, 2, -200)];
        check(&[order(1, 2, 300), order(2, 1, 70)], &invoices, &[]);
    }

    #[test]
    fn what_is_missing_double_out_of_order_or_phantom_is_found() {
        check(
            &[order(1, 1, 500)],
            &[],
            &[
                "order 1 has 1 versions, and was billed for []",
                "order 1 is over 500 cents, and 0 were billed",
            ],
        );
        check(
            &[order(1, 1, 500)],
            &[invoice(1, 1, 500), invoice(1, 1, 500)],
            &[
                "order 1 has 1 versions, and was billed for [1, 1]",
                "order 1 is over 500 cents, and 1000 were billed",
            ],
        );
        check(
            &[order(1, 2, 300)],
            &[invoice(1, 2, -200), invoice(1, 1, 500)],
            &["order 1 has 2 versions, and was billed for [2, 1]"],
        );
        check(&[], &[invoice(1, 1, 500)], &["order 1 was billed, and was never placed"]);
        let unheard = Order { invoices: 0, invoiced_cents: 0, ..order(1, 1, 500) };
        check(
            &[unheard],
            &[invoice(1, 1, 500)],
            &["order 1 of 1 versions and 500 cents has heard of 0 invoices over 0"],
        );
    }
}
