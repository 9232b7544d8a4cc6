-- title: Customers by value
-- description: How many orders a customer has placed, and what was paid for them and not given back. Amounts are minor units.
-- parameter: most integer = 100; how many customers
-- money: amount in currency
SELECT o.customer, o.currency, COUNT(*) AS orders, SUM(o.paid_amount) - SUM(o.refunded_amount) AS amount
FROM orders.order AS o
GROUP BY o.customer, o.currency
ORDER BY amount DESC, o.customer, o.currency
LIMIT :most
