// The threads that run in step.
#pragma once

constexpr unsigned kAllLanes = 0xffffffffu;
