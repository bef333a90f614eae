# Filters the console output of the Evolution API before it reaches the cluster's logs.
#
# 2.3.7 prints inbound messages with phone, name and text at every LOG_LEVEL. The filter passes only the head of each line
# of its logger, and whole lines that match a few known sentences without data. The complete output is kept in `file` in
# the pod, at most one megabyte and the previous one, which no log collector reads.

function keep(line) {
  if (size > 1048576) {
    close(file)
    system("mv -f '" file "' '" file ".1'")
    size = 0
  }
  size += length(line) + 1
  print line >> file
  fflush(file)
}

{
  keep($0)
  if ($0 !~ /^\[Evolution API\] / || !match($0, / (ERROR|WARN|INFO) +\[[A-Za-z]+\]/)) next
  head = substr($0, 1, RSTART + RLENGTH - 1)
  if (length(head) > 200 || head ~ /[{}"'@]|[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]| (LOG|DEBUG|VERBOSE|DARK) /) next
  said = substr($0, RSTART + RLENGTH)
  sub(/^ +\[[a-z]+\] +/, "", said)
  harmless = said ~ /^[A-Za-z:]+( [A-Za-z:]+)? - ON(: [0-9]+)?$/ || said ~ /^(Error: )?(Connection Closed|Timed Out|rate-overlimit)$/
  print harmless ? head " " said : head
  fflush()
}
