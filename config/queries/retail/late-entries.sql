-- title: Late entries
-- description: Days of stores to which sales or returns came after the close.
-- parameter: since date = 2000-01-01; the first business date
-- money: net_amount in currency
SELECT t.store, t.business_date, t.late, t.closings, t.closed, t.net_amount, t.currency
FROM retail.till AS t
WHERE t.late > 0 AND t.business_date >= :since
ORDER BY t.business_date DESC, t.store
