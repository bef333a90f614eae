# What the Evolution API writes to its console, on its way to the cluster's logs.
#
# 2.3.7 prints inbound messages there, with phone, name and text, whatever LOG_LEVEL says. So of a line that its logger wrote
# the head goes on, without what it says, and a few sentences that hold no data go on whole. All of it is kept in `file`, a
# megabyte and the one before, in the pod, where nothing collects it.

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
