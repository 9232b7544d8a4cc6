-- title: Orders that stand still
-- description: Orders that are not shipped, delivered or called off, and of which nothing was heard since a moment.
-- parameter: before time; the moment
-- money: amount in currency
SELECT o."order", o.customer, o.state, o.amount, o.currency, o.placed_at, o.recorded_at
FROM orders.order AS o
WHERE o.state IN ('placed', 'reserved', 'paid') AND o.recorded_at < :before
ORDER BY o.recorded_at, o."order"
