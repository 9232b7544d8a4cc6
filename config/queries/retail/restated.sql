-- title: Restated days
-- description: Daily reports of stores that were changed after they were sealed, and by how much.
-- parameter: since time = 2000-01-01T00:00:00Z; when the change was recorded, at the earliest
-- money: difference_net_amount in currency
SELECT r.store, r.business_date, r.revision, r.status, r.opened_at, r.difference_net_amount, r.difference_lines, r.currency
FROM retail.store_daily_revisions AS r
WHERE r.revision > 1 AND r.opened_at >= :since
ORDER BY r.opened_at DESC, r.store, r.business_date, r.revision
